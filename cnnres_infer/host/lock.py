"""File locks between processes, which the system releases when their holder ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
    import time

    def wait_for(descriptor: int) -> None:
        """Lock an open file, waiting until no other process holds the lock."""
        # msvcrt stops waiting after ten seconds; builds may take minutes.
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
        """Lock an open file or folder, waiting until no other process holds the lock."""
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file inside the context, waiting until no other process holds it.

    Parameters
    ----------
    path
        The lock file; created if it does not exist, and never removed.
    """
    with path.open("a") as file:
        wait_for(file.fileno())
        yield
