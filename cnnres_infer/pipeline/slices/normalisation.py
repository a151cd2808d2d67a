"""Normalisation of intensities."""

import numpy as np

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import VolumeError

# As a fraction of the upper quartile.
_TISSUE_FLOOR = 0.5


def tissue_median(volume: Volume, brain: BoolArray) -> float:
    """Median intensity of brain tissue, the unit in which intensities are normalised.

    The median is taken over the voxels brighter than half of the brain's upper
    quartile. Without fluid and edges, it hardly differs between a central slice
    and the whole brain.

    Parameters
    ----------
    volume
        The volume.
    brain
        bool (X, Y, Z), True in the brain.

    Raises
    ------
    VolumeError
        If most of the brain is not positive.
    """
    # In the order of memory, voxels are selected several times as fast.
    data, inside = (volume.data.T, brain.T) if brain.flags.f_contiguous else (volume.data, brain)
    return median_of_tissue(data[inside], volume.name)


def median_of_tissue(values: FloatArray, name: str) -> float:
    """The `tissue_median` of a brain's voxels (N,), which it sorts."""
    # Vectorised sorting is fast, and quantiles of sorted values cost nothing.
    values.sort()
    upper_quartile = _quantile(values, 0.75) if values.size else 0.0
    if not upper_quartile > 0:
        raise VolumeError(
            f"{name}: the brain is dark: most of its voxels are not positive; give an image "
            "with positive intensities",
            code=ErrorCode.BRAIN_NONE,
        )
    first = np.searchsorted(values, _TISSUE_FLOOR * upper_quartile, side="right")
    return float(_quantile(values[first:], 0.5))


def _quantile(ordered: FloatArray, part: float) -> np.float32:
    """Quantile of values in ascending order, interpolated linearly."""
    place = part * (len(ordered) - 1)
    around = ordered[int(place) : int(place) + 2]
    quantile: np.float32 = np.quantile(around, place - int(place)) if len(around) > 1 else around[0]
    return quantile
