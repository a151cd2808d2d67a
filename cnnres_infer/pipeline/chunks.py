"""Slices of a volume in chunks, since temporary arrays of a whole volume would be large."""

_SLICES = 16


def chunks(count: int, multiple: int = 1) -> list[slice]:
    """Consecutive ranges of about 16 of `count` slices, whose lengths are multiples but the last's.

    Parameters
    ----------
    count
        Number of slices.
    multiple
        What stays together, such as the slices of a block.
    """
    length = multiple * max(1, _SLICES // multiple)
    return [slice(first, first + length) for first in range(0, count, length)]
