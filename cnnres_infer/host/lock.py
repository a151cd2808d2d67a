"""File locks between processes, which the system releases when their holder ends."""

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnnres_infer.host.deadline import check_time

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.2

if sys.platform == "win32":
    import msvcrt

    def _try(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def wait_for(descriptor: int, seconds: float | None = None) -> None:
    """Lock an open file or folder, waiting until no other process holds the lock.

    Parameters
    ----------
    descriptor
        The open file or folder.
    seconds
        The longest time to wait; None for no limit but that of the work under way
        (see `cnnres_infer.host.deadline`).

    Raises
    ------
    TimeoutError
        If another process still holds the lock after `seconds`.
    LimitError
        If the time limit of the work under way is exceeded.
    OSError
        If the file system has no locks.
    """
    started, pause = time.perf_counter(), _FIRST_PAUSE_S
    while not _try(descriptor):
        check_time()
        if seconds is not None and time.perf_counter() - started > seconds:
            raise TimeoutError(f"another process has held its lock for {seconds:g} s")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file inside the context, waiting until no other process holds it.

    Parameters
    ----------
    path
        The lock file; created if it does not exist, and never removed.

    Raises
    ------
    OSError
        If it is not a file, or cannot be created.
    """
    # For reading too: only to write to a pipe, its reader would be waited for.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a file: remove it")
        wait_for(descriptor)
        yield
    finally:
        os.close(descriptor)
