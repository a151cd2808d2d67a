"""The mask that comes of probabilities, and the lesions in it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import read_only


@dataclass(frozen=True)
class MaskSpec:
    """How probabilities become a mask.

    Attributes
    ----------
    threshold
        What has at least this probability is lesion.
    smallest_ml
        Lesions of less than this volume in ml are dropped.
    """

    threshold: float
    smallest_ml: float

    def apply(self, probabilities: FloatArray) -> BoolArray:
        """Tell, for probabilities of any shape, which are lesion; lesions of any size stay."""
        lesion: BoolArray = probabilities >= self.threshold
        return lesion


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
        uint8 (X, Y, Z), 1 in lesions; a read-only view of the array that was
        given, which is not copied.
    grid
        Where the voxels lie.
    """

    data: NDArray[np.uint8]
    grid: Grid

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", read_only(self.data))

    @property
    def volume_ml(self) -> float:
        """Volume of all lesions in ml."""
        return int(np.count_nonzero(self.data)) * self.grid.voxel_ml
