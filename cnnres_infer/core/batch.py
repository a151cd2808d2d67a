"""Images of one volume that the network computes at once, and where they lie in its slices."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import FloatArray

# Rows and columns of a slice.
Box: TypeAlias = tuple[slice, slice]


def hull(boxes: Iterable[Box]) -> Box:
    """The smallest box around several."""
    rows, columns = (
        slice(min(each.start for each in extents), max(each.stop for each in extents))
        for extents in zip(*boxes, strict=True)
    )
    return rows, columns


def overlap(one: Box, other: Box) -> tuple[Box, Box]:
    """What two boxes share, in the rows and columns of the one and of the other."""
    (rows, other_rows), (columns, other_columns) = map(_shared, one, other)
    return (rows, columns), (other_rows, other_columns)


def _shared(one: slice, other: slice) -> tuple[slice, slice]:
    start = max(one.start, other.start)
    stop = max(start, min(one.stop, other.stop))
    return (
        slice(start - one.start, stop - one.start),
        slice(start - other.start, stop - other.start),
    )


@dataclass(frozen=True, eq=False)
class SliceBatch:
    """A batch of images of one shape from one volume.

    Attributes
    ----------
    images
        float32 (N, C, H, W) in [0, 1]; rows run from anterior to posterior,
        columns from the patient's right to left.
    z
        (N,), index of each image among the volume's slices, counted from
        inferior.
    boxes
        Where each image lies in its whole slice; empty if images are whole slices.
    frame
        Height and width of whole slices in pixels; only used with `boxes`.
    """

    images: FloatArray
    z: NDArray[np.intp]
    boxes: Sequence[Box] = ()
    frame: tuple[int, int] = (0, 0)

    @property
    def places(self) -> Sequence[Box]:
        """Where each image lies in its whole slice."""
        if self.boxes:
            return self.boxes
        height, width = self.whole
        return [(slice(0, height), slice(0, width))] * len(self.images)

    @property
    def whole(self) -> tuple[int, int]:
        """Height and width of whole slices."""
        return self.frame if self.boxes else (self.images.shape[2], self.images.shape[3])

    def framed(self, pixels: FloatArray) -> FloatArray:
        """Put pixels (N, K, H, W) where they lie in whole slices, which are zero elsewhere."""
        if not self.boxes:
            return pixels
        framed = np.zeros((*pixels.shape[:2], *self.frame), np.float32)
        for whole, part, (rows, columns) in zip(framed, pixels, self.boxes, strict=True):
            whole[:, rows, columns] = part
        return framed
