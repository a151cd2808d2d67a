"""One process at a time, by locks that the system releases when their holder ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
    import time

    def wait_for(descriptor: int) -> None:
        """Lock an open file, once no other process holds it."""
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

    def wait_for(descriptor: int) -> None:
        """Lock an open file or folder, once no other process holds it."""
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
        wait_for(file.fileno())
        yield
