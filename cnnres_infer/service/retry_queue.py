"""Results that are to be pushed, one file each, until the other side has answered.

```text
ROOT/outbox/pending/KEY.json   to be pushed: what, where to, how often tried, the last error
ROOT/outbox/sent/KEY.json      answered with success; never pushed again
```
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cnnres_infer.host.durable import move_durably, remove_temporary, write_durably
from cnnres_infer.service.record import from_time, to_time
from cnnres_infer.service.state import OUTBOX, free_name

_PREFIX, _PREFIX_AT = b"DICM", 128
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 900.0


@dataclass(frozen=True)
class Push:
    """A file that is to be pushed.

    Attributes
    ----------
    file
        The file.
    peer
        Where to, as ``HOST:PORT/AET``.
    study
        Hashed identifier of its study.
    sop_instance
        UID of the object.
    attempts
        How often it was tried.
    next_try
        When to try again, in seconds since 1970.
    error
        Why the last attempt failed.
    """

    file: Path
    peer: str
    study: str
    sop_instance: str
    attempts: int = 0
    next_try: float = 0.0
    error: str | None = None

    @property
    def key(self) -> str:
        """Name of its files: the same for the same object and peer."""
        text = f"{self.peer} {self.sop_instance}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class RetryQueue:
    """The folder of pushes; one thread adds to it, and another takes from it.

    Parameters
    ----------
    root
        The work area.
    peers
        Where every object goes, each as ``HOST:PORT/AET``.
    """

    def __init__(self, root: Path, peers: Iterable[str] = ()) -> None:
        self._pending = root / OUTBOX / "pending"
        self._sent = root / OUTBOX / "sent"
        self._peers = tuple(peers)

    def open(self) -> None:
        """Create the folders, and remove what a killed process left unfinished."""
        for folder in (self._pending, self._sent):
            folder.mkdir(parents=True, exist_ok=True)
            remove_temporary(folder)

    def add_all(self, files: Iterable[Path], study: str) -> None:
        """Queue those of the files that are DICOM, unless they are queued or were sent."""
        for file in files:
            if self._peers and is_part_10(file):
                instance = _sop_instance(file)
                for peer in self._peers:
                    self._add(Push(file.absolute(), peer, study, instance))

    def pending(self) -> list[Push]:
        """All that is to be pushed, the next one first."""
        found = [_read(path) for path in self._files(self._pending)]
        return sorted((each for each in found if each is not None), key=lambda push: push.next_try)

    def sent_count(self) -> int:
        """How many objects were pushed."""
        return len(self._files(self._sent))

    def sent(self, push: Push) -> None:
        """Note that the other side has answered; nothing of it is pushed again."""
        path = self._pending / f"{push.key}.json"
        if path.exists():
            move_durably(path, free_name(self._sent / path.name))

    def postpone(self, push: Push, error: str, now: float) -> None:
        """Note that an attempt failed, and wait twice as long as before the last one."""
        pause = min(_FIRST_PAUSE_S * 2 ** min(push.attempts, 30), _LONGEST_PAUSE_S)
        self._write(replace(push, attempts=push.attempts + 1, next_try=now + pause, error=error))

    def _add(self, push: Push) -> None:
        name = f"{push.key}.json"
        if not (self._pending / name).exists() and not (self._sent / name).exists():
            self._write(push)

    def _write(self, push: Push) -> None:
        content = {**asdict(push), "file": str(push.file), "next_try": to_time(push.next_try)}
        path = self._pending / f"{push.key}.json"
        write_durably(path, json.dumps(content, indent=2).encode(), b"\n")

    def _files(self, folder: Path) -> list[Path]:
        return sorted(folder.glob("[!.]*.json")) if folder.is_dir() else []


def is_part_10(path: Path) -> bool:
    """Whether a file is a DICOM object."""
    try:
        with path.open("rb") as file:
            head = file.read(_PREFIX_AT + len(_PREFIX))
    except OSError:
        return False
    return head[_PREFIX_AT:] == _PREFIX


def _sop_instance(path: Path) -> str:
    from pydicom.filereader import read_file_meta_info

    return str(read_file_meta_info(path).MediaStorageSOPInstanceUID)


def _read(path: Path) -> Push | None:
    """What a file says; None if a person has broken it."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        content["file"] = Path(content["file"])
        content["next_try"] = from_time(content["next_try"])
        return Push(**content)
    except (OSError, ValueError, KeyError, TypeError):
        return None
