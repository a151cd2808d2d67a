"""Normalisation of intensities."""

import numpy as np

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import VolumeError
from cnnres_infer.pipeline.voxels import voxels_in

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
    return median_of_tissue(voxels_in(volume.data, brain), volume.name)


def median_of_tissue(values: FloatArray, name: str) -> float:
    """The `tissue_median` of a brain's voxels (N,), which it reorders."""
    count = len(values)
    upper_quartile = ranked(values, 0.75 * (count - 1)) if count else 0.0
    if not upper_quartile > 0:
        raise VolumeError(
            f"{name}: the brain is dark: most of its voxels are not positive; give an image "
            "with positive intensities",
            code=ErrorCode.BRAIN_NONE,
        )
    below = np.count_nonzero(values <= np.float32(_TISSUE_FLOOR * upper_quartile))
    return ranked(values, below + 0.5 * (count - below - 1))


def ranked(values: FloatArray, rank: float) -> float:
    """What has a rank among values (N,), from 0 for the least, interpolated linearly between two.

    The values are reordered: to select is a fraction of the work of sorting.
    """
    lower = int(rank)
    values.partition(lower)
    value, share = values[lower], np.float32(rank - lower)
    if share:
        value += (values[lower + 1 :].min() - value) * share
    return float(value)
