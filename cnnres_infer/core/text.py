"""Text from files, safe to show."""


def printable(text: str) -> str:
    """Escape everything that acts instead of being seen: control characters, line breaks, marks.

    Names and descriptions come from files, and may hold what moves a cursor, sets
    a clipboard, starts a line of its own, or reverses the direction of writing.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
