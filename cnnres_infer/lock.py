"""One process at a time, by a lock file that the system releases when its holder ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
    import time

    def _lock(descriptor: int) -> None:
        # Waits of msvcrt give up after ten seconds; builds may take minutes.
        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            except OSError:
                time.sleep(0.2)
            else:
                return
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock file, and hold it.

    Parameters
    ----------
    path
        The lock file; it is made, and stays.
    """
    with path.open("a") as file:
        _lock(file.fileno())
        yield
