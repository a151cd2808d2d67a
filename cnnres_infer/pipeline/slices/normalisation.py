"""The unit of the network's intensities."""

import numpy as np

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.core.spec import SliceSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import VolumeError

_TISSUE_FLOOR = 0.5


def tissue_median(volume: Volume, brain: BoolArray) -> float:
    """Median intensity of brain tissue, the unit of the network's intensities.

    The median over brain voxels brighter than half of the brain's upper
    quartile: without fluid and edges it hardly differs between one slice in
    the middle of a brain and the whole of it.

    Raises
    ------
    VolumeError
        If the brain holds no positive intensities.
    """
    # numpy sorts with vector instructions; in what is sorted, quantiles are found at once.
    values = volume.data[brain]
    values.sort()
    quartile = np.percentile(values, 75) if values.size else 0.0
    if not quartile > 0:
        raise VolumeError(
            f"{volume.name}: the brain is dark, most of its voxels are not positive; give an image "
            "with positive intensities",
            code=ErrorCode.BRAIN_NONE,
        )
    first = np.searchsorted(values, _TISSUE_FLOOR * quartile, side="right")
    return float(np.median(values[first:]))


def saturation(volume: Volume, brain: BoolArray, spec: SliceSpec) -> float:
    """Intensity that becomes 1.0; voxels of zero, which stripping leaves, do not count.

    Raises
    ------
    VolumeError
        If the brain holds no positive intensities.
    """
    seen = volume.data != 0
    seen &= brain
    return spec.ceiling * tissue_median(volume, seen)
