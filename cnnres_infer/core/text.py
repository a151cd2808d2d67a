"""Text from files, safe to show."""

import os
from pathlib import Path


def printable(text: str) -> str:
    """Escape everything that acts instead of being seen: control characters, line breaks, marks.

    Names and descriptions come from files, and may hold what moves a cursor, sets
    a clipboard, starts a line of its own, or reverses the direction of writing.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as ``1 lesion`` or ``2 lesions``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def without_folder(text: str, path: Path) -> str:
    """A message without the folder that a file or study lies in, for reports to keep.

    Parameters
    ----------
    text
        The message.
    path
        The file or study that it may name, together with what lies in or beside it.
    """
    return text.replace(f"{path.parent}{os.sep}", "")
