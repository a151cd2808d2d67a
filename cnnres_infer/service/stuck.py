"""Cases that cannot be taken from where they arrived: said once, and passed over meanwhile."""

import logging
import os
import time
from pathlib import Path

from cnnres_infer.core.text import printable
from cnnres_infer.host.durable import write_durably
from cnnres_infer.service.state import STUCK

_log = logging.getLogger(__name__)
# What keeps a case where it is need not leave a trace in its files.
_AGAIN_S = 60.0


class Stuck:
    """Keeps which cases these are, in a file that `read_stuck` reads.

    Parameters
    ----------
    root
        The work area.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / STUCK
        # Why each is, and until when it is passed over.
        self._cases: dict[str, tuple[str, float]] = {}
        self._path.unlink(missing_ok=True)

    def is_passed_over(self, name: str) -> bool:
        """Whether a case is not to be tried now."""
        return name in self._cases and time.monotonic() < self._cases[name][1]

    def add(self, name: str, study: str, reason: str) -> None:
        """Pass a case over for a minute; it is logged the first time, without its name."""
        is_new = name not in self._cases
        self._cases[name] = reason, time.monotonic() + _AGAIN_S
        if is_new:
            _log.warning("case %s cannot be moved; see cnnres-infer status", study)
            self._write()

    def forget_gone(self, folder: Path) -> None:
        """Forget cases that are no longer in the folder where they arrived."""
        gone = [name for name in self._cases if not os.path.lexists(folder / name)]
        for name in gone:
            del self._cases[name]
        if gone:
            self._write()

    def _write(self) -> None:
        lines = (f"{printable(reason)}\n".encode() for reason, _ in self._cases.values())
        write_durably(self._path, *lines)


def read_stuck(root: Path) -> tuple[str, ...]:
    """Why each case is stuck that is."""
    try:
        return tuple((root / STUCK).read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return ()
