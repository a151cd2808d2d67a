"""Small files beside an image, read without trusting what they are."""

from pathlib import Path

from cnnres_infer.host.files import read_regular


def read_small(path: Path, max_bytes: int) -> bytes | None:
    """Content of a regular file; None if there is no file of that name.

    Raises
    ------
    ValueError
        If it cannot be read, is no regular file or too large; the message says
        which, without the path.
    """
    try:
        content = read_regular(path, max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    if len(content) > max_bytes:
        raise ValueError(f"larger than {max_bytes} bytes")
    return content
