"""Thresholding of probabilities, and measurement of the lesions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.mask import Lesion, Mask, MaskSpec
from cnnres_infer.core.volume import Probabilities
from cnnres_infer.pipeline.box import bounding_box
from cnnres_infer.pipeline.slices.back import LesionMap


@dataclass(frozen=True, eq=False)
class Lesions:
    """The lesions of a grid, numbered from 1 in descending order of size.

    Attributes
    ----------
    labels
        Unsigned integers, of the box's shape: 0, or the number of a lesion.
    box
        The part of the grid that holds all lesions; empty if there are none.
    grid
        The grid of the voxels.
    each
        The lesions, in the order of their numbers.
    """

    labels: NDArray[np.unsignedinteger]
    box: tuple[slice, slice, slice]
    grid: Grid
    each: tuple[Lesion, ...]

    def mask(self, wanted: BoolArray | None = None) -> Mask:
        """Mask of all lesions, or of those that are True in `wanted` (N,)."""
        data = np.zeros(self.grid.shape, np.uint8, order="F")
        numbers = np.ones(len(self.each), np.bool_) if wanted is None else wanted
        data[self.box] = np.r_[False, numbers][self.labels]
        return Mask(data, self.grid)


def find_lesions(probabilities: Probabilities | LesionMap, spec: MaskSpec) -> Lesions:
    """Threshold probabilities, leave out small lesions and measure the others."""
    import cc3d

    grid = probabilities.grid
    above = probabilities.above(spec.apply)
    box = bounding_box(above)
    if not above.any():
        return Lesions(np.zeros((0, 0, 0), np.uint32), box, grid, ())
    # With a margin, since cc3d fails on some boxes of a few voxels.
    padded = np.pad(above[box], 1)
    labels = cc3d.connected_components(padded, connectivity=26)
    places = np.flatnonzero(labels)
    of_places = labels.ravel()[places]
    voxels = np.bincount(of_places)
    keep = voxels * grid.voxel_ml >= spec.smallest_ml
    keep[0] = False
    origin = [extent.start - 1 for extent in box]
    # Sums of integers, which float64 holds exactly.
    sums = np.array(
        [np.bincount(of_places, axis) for axis in np.unravel_index(places, labels.shape)]
    )
    ordered = sorted(np.flatnonzero(keep), key=lambda label: -voxels[label])
    lesions = []
    for label in ordered:
        centre = sums[:, label] / voxels[label] + origin
        lesions.append(
            Lesion(
                int(voxels[label]),
                float(voxels[label] * grid.voxel_ml),
                _triple(centre),
                _triple(grid.to_mm(centre)),
            )
        )
    number = np.zeros(len(voxels), np.uint32)
    number[ordered] = np.arange(1, len(ordered) + 1)
    return Lesions(number[labels[1:-1, 1:-1, 1:-1]], box, grid, tuple(lesions))


def binarize(
    probabilities: Probabilities | LesionMap, spec: MaskSpec
) -> tuple[Mask, tuple[Lesion, ...]]:
    """Threshold probabilities, remove small lesions and measure the others.

    Returns
    -------
    mask
        On the grid of the probabilities.
    lesions
        The lesions in descending order of size.
    """
    found = find_lesions(probabilities, spec)
    return found.mask(), found.each


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
