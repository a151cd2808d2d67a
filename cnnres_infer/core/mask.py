"""Lesion masks, and how they are derived from probabilities."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import read_only


@dataclass(frozen=True)
class MaskSpec:
    """How probabilities are turned into a mask.

    Attributes
    ----------
    threshold
        Voxels with at least this probability are lesion.
    smallest_ml
        Lesions smaller than this volume in ml are removed.
    """

    threshold: float
    smallest_ml: float

    def apply(self, probabilities: FloatArray) -> BoolArray:
        """Threshold probabilities of any shape, without removing small lesions."""
        lesion: BoolArray = probabilities >= self.threshold
        return lesion


@dataclass(frozen=True)
class Lesion:
    """A connected component of the mask (26-connectivity).

    Attributes
    ----------
    voxels
        Number of voxels.
    volume_ml
        Volume in ml.
    centre_voxel
        Centre of mass in voxel indices (i, j, k).
    centre_mm
        Centre of mass in mm, RAS+.
    relative_adc
        Median ADC over that of the brain; None where it is not known.
    adc_mm2_s
        Median ADC in mm²/s; None where it or its unit is not known.
    restricted_share
        Share of its voxels that restrict diffusion, of those whose ADC is known;
        None where too few are, or the model does not say what restricts diffusion.
    """

    voxels: int
    volume_ml: float
    centre_voxel: tuple[float, float, float]
    centre_mm: tuple[float, float, float]
    relative_adc: float | None = None
    adc_mm2_s: float | None = None
    restricted_share: float | None = None


@dataclass(frozen=True, eq=False)
class Mask:
    """A binary mask, of lesions or of the brain.

    Attributes
    ----------
    data
        uint8 (X, Y, Z), 1 inside. A read-only view; the array passed in is
        not copied.
    grid
        The grid of the voxels.
    """

    data: NDArray[np.uint8]
    grid: Grid

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", read_only(self.data))

    def __repr__(self) -> str:
        return f"<Mask of {self.volume_ml:.2f} ml, {self.grid}>"

    @property
    def volume_ml(self) -> float:
        """Total volume in ml."""
        return int(np.count_nonzero(self.data)) * self.grid.voxel_ml
