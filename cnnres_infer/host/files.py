"""Opening files for reading: regular files only, and never waiting for one."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_CHUNK_BYTES = 1 << 20
# A pipe would otherwise wait for somebody who writes to it. Regular files ignore it.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class NotAFileError(OSError):
    """A folder, device or pipe in the place of a file."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises
    ------
    OSError
        If it cannot be opened; its `strerror` is set. `NotAFileError` if it is a
        folder, device or pipe.
    """
    try:
        # Before it is opened, since opening some devices has effects.
        _check_kind(path, path.stat().st_mode)
        descriptor = os.open(path, _FLAGS)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"not a valid name ({error})", str(path)) from error
    try:
        # It may have been replaced in the meantime.
        _check_kind(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Read a regular file.

    Parameters
    ----------
    path
        The file.
    max_bytes
        The most that is of use; of a larger file, one byte more is read.

    Raises
    ------
    OSError
        See `open_regular`.
    """
    with open_regular(path) as file:
        # Not the most that it may have, since all that is asked for is allocated.
        content = file.read(min(os.fstat(file.fileno()).st_size, max_bytes) + 1)
        # Files that grow have more than they said, and so have those of the kernel.
        while more := file.read(min(max_bytes + 1 - len(content), _CHUNK_BYTES)):
            content += more
    return content


def _check_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "directory" if stat.S_ISDIR(mode) else "device or pipe"
        raise NotAFileError(errno.EINVAL, f"a {kind}, not a file", str(path))
