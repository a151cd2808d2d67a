"""Files and renames that survive a loss of power, and not only the end of the process."""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

# Starts with a dot, so that whoever looks for files passes it by.
_TEMPORARY = ".cnnres-temporary-"


def write_durably(path: Path, *content: bytes, mode: int = 0o644) -> None:
    """Write a file, replacing it if it exists; it has its old or its new content, never a part.

    Parameters
    ----------
    path
        The file, in an existing folder.
    content
        What it will hold, in pieces.
    mode
        Its permissions, less those that the process does not give.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
    try:
        write_synced(temporary, *content, mode=mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_synced(path: Path, *content: bytes, mode: int = 0o644) -> None:
    """Write a new file to the disk, but not its name, for a folder that it is moved from.

    Parameters
    ----------
    path, content, mode
        See `write_durably`.

    Raises
    ------
    OSError
        If it exists or cannot be written; a part of it may be left then.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        for piece in content:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def move_durably(source: Path, target: Path) -> None:
    """Rename a file or folder; the folder that it goes to is written before the one it leaves."""
    source.rename(target)
    sync_folder(target.parent)
    sync_folder(source.parent)


def append_durably(path: Path, line: str) -> None:
    """Append a line to a file, after ending one that a loss of power cut short."""
    with path.open("a+b", buffering=0) as file:
        torn = False
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write((b"\n" if torn else b"") + line.encode() + b"\n")
        os.fsync(file.fileno())


def sync_files(paths: Iterable[Path]) -> None:
    """Have existing files and their folders written to the disk."""
    paths = list(paths)
    for path in paths:
        # Windows writes back only what may be written.
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    for folder in {path.parent for path in paths}:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk, on systems that can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        # Windows opens no folders, and writes their names in order.
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary(folder: Path) -> None:
    """Remove the unfinished files that a killed process left in a folder."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        path.unlink(missing_ok=True)
