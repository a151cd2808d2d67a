"""From probabilities to a mask, and what its lesions measure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.volume import Grid, Probabilities
from cnnres_infer.pipeline.slices import BoolArray


@dataclass(frozen=True)
class MaskSpec:
    """How a mask is made.

    Attributes
    ----------
    threshold
        Voxels of at least this probability are lesion.
    smallest_ml
        Lesions of less than this volume in ml are dropped.
    """

    threshold: float
    smallest_ml: float


@dataclass(frozen=True)
class Lesion:
    """One connected lesion (26 neighbours).

    Attributes
    ----------
    voxels
        Number of its voxels.
    volume_ml
        Their volume in ml.
    centre_voxel
        Centre of mass, voxel indices (i, j, k).
    centre_mm
        The same place in mm, RAS+.
    """

    voxels: int
    volume_ml: float
    centre_voxel: tuple[float, float, float]
    centre_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Mask:
    """Lesion or not, for each voxel.

    Attributes
    ----------
    data
        uint8 (X, Y, Z), 1 in lesions, read-only.
    grid
        Where the voxels lie.
    """

    data: NDArray[np.uint8]
    grid: Grid

    def __post_init__(self) -> None:
        self.data.setflags(write=False)

    @property
    def volume_ml(self) -> float:
        """Volume of all lesions in ml."""
        return int(np.count_nonzero(self.data)) * self.grid.voxel_ml


def binarize(probabilities: Probabilities, spec: MaskSpec) -> tuple[Mask, tuple[Lesion, ...]]:
    """Cut probabilities at the threshold and drop what is too small.

    Returns
    -------
    mask
        On the grid of the probabilities.
    lesions
        The largest first.
    """
    import cc3d

    grid = probabilities.grid
    above = probabilities.data >= spec.threshold
    if not above.any():
        return Mask(above.view(np.uint8), grid), ()
    box = _bounding_box(above)
    labels = cc3d.connected_components(above[box], connectivity=26)
    statistics = cc3d.statistics(labels)
    voxels = np.array(statistics["voxel_counts"], np.int64)
    keep = voxels * grid.voxel_ml >= spec.smallest_ml
    keep[0] = False
    data = above.view(np.uint8)
    data[box] = keep[labels]
    mask = Mask(data, grid)
    lesions = []
    for label in np.flatnonzero(keep):
        centre = statistics["centroids"][label] + np.array([edge.start for edge in box], np.float64)
        lesions.append(
            Lesion(
                int(voxels[label]),
                float(voxels[label] * grid.voxel_ml),
                _triple(centre),
                _triple(grid.to_mm(centre)),
            )
        )
    return mask, tuple(sorted(lesions, key=lambda lesion: -lesion.voxels))


def _bounding_box(mask: BoolArray) -> tuple[slice, slice, slice]:
    """The smallest box of voxels that holds all of a mask (X, Y, Z) that is not empty."""
    across = ((1, 2), (0, 2), (0, 1))
    places = [np.flatnonzero(mask.any(axis=axes)) for axes in across]
    x, y, z = (slice(int(place[0]), int(place[-1]) + 1) for place in places)
    return x, y, z


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
