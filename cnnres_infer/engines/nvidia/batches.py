"""The few batch sizes that GPUs run.

CUDA graphs, execution contexts and tuned kernels are made for one shape each.
So a batch is padded to the next of a few sizes, instead of getting its own.
"""

from collections.abc import Iterator
from typing import NamedTuple

LADDER = (4, 8, 16)


class Part(NamedTuple):
    """A batch.

    Attributes
    ----------
    rows
        Its images.
    padded
        Number of images that are computed, those that pad it included.
    """

    rows: slice
    padded: int


def ladder(smallest: int, largest: int) -> tuple[int, ...]:
    """The sizes in use, in ascending order, where batches may have `smallest` to `largest`."""
    return tuple(sorted({min(max(size, smallest), largest) for size in (*LADDER, largest)}))


def split(count: int, sizes: tuple[int, ...]) -> Iterator[Part]:
    """Divide a number of images into batches of the largest size, and a padded rest."""
    largest = sizes[-1]
    for first in range(0, count, largest):
        rows = slice(first, min(first + largest, count))
        yield Part(rows, next(size for size in sizes if size >= rows.stop - rows.start))
