"""Small files beside an image, read without trusting what they are."""

import os
import stat
from pathlib import Path

# Where there is none, opening a pipe does not wait either.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_small(path: Path, max_bytes: int) -> bytes | None:
    """Content of a regular file; None if there is no file of that name.

    Pipes and devices are not waited for, and no more than `max_bytes` are read.

    Raises
    ------
    ValueError
        If it cannot be read, is no regular file or too large; the message says
        which, without the path.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        try:
            content = file.read(max_bytes + 1)
        except OSError as error:
            raise ValueError(error.strerror or str(error)) from error
    if len(content) > max_bytes:
        raise ValueError(f"larger than {max_bytes} bytes")
    return content
