"""What values cannot be: labels, wrapped integers, an image in a mask, or those of the DWI."""

import numpy as np

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.case import Role
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import VolumeError
from cnnres_infer.pipeline.voxels import sample

# Images of brains have hundreds of values; the bound leaves them at least five bits.
_MIN_DISTINCT = 32
# Fraction of neighbouring voxels with the same value: under 0.1 in images, 0.5 where voxels were
# doubled along an axis, and above 0.7 in parcellations of hundreds of regions.
_MAX_EQUAL = 0.65
_MIN_PAIRS = 500
# Few voxels tell that there are many values; the step between values takes more of them.
_FEW, _SAMPLE = 1 << 13, 1 << 16

# Neighbours further apart than this part of an integer type's range, in at least so many
# places, are closer the other way round.
_WRAPPED_STEP = 0.75
_MIN_WRAPPED = 6
_INTEGER_BITS = (8, 16)
# Where a scale factor was applied, which is known roughly, both ends of the range are to be
# reached as well, as they are where tissue crosses its upper end.
_WRAPPED_REACH = 0.9
_SLACK = 1.01


def check_values(volume: Volume, role: str = "") -> None:
    """Reject what cannot be an image.

    Parameters
    ----------
    volume
        The volume.
    role
        What it is given as besides the volume to segment, to be named in messages.

    Raises
    ------
    VolumeError
        If the values are those of a mask or label map, or are unsigned integers
        that were stored as signed ones.
    """
    data = volume.data
    distinct = len(np.unique(sample(data, _FEW)))
    if distinct <= _MIN_DISTINCT:
        distinct = len(np.unique(data))
    equal = 0.0 if distinct <= _MIN_DISTINCT else _equal_neighbours(data)
    if distinct <= _MIN_DISTINCT or equal > _MAX_EQUAL:
        distinct = len(np.unique(data))
        raise VolumeError(
            f"{volume.name}: looks like a {_labels(distinct, equal)}; give the image itself"
            + (f" as `{role}`" if role else ""),
            code=ErrorCode.VOXELS_LABELS,
        )
    bits = _wrapped_bits(data)
    if bits:
        raise VolumeError(
            f"{volume.name}: looks like unsigned {bits}-bit integers stored as signed ones: the "
            f"brightest voxels became negative (down to {float(data.min()):.0f}); convert the "
            "image again",
            code=ErrorCode.VOXELS_WRAPPED,
        )


def check_mask_values(mask: Volume) -> None:
    """Reject an image that is given as a brain mask.

    Masks, probabilities and label maps pass.

    Parameters
    ----------
    mask
        The brain mask.

    Raises
    ------
    VolumeError
        If it has values above one, many of them, and neighbours hardly ever share one.
    """
    data = mask.data
    if float(data.max()) <= 1 or len(np.unique(sample(data, _FEW))) <= _MIN_DISTINCT:
        return
    if _equal_neighbours(data) <= _MAX_EQUAL:
        raise VolumeError(
            f"{mask.name}: looks like an image, not like a brain mask; give a mask, or leave it "
            "out and have the brain extracted",
            code=ErrorCode.VOXELS_IMAGE,
        )


def check_different(given: Volume, role: Role, dwi: Volume) -> None:
    """Reject the DWI itself where another volume is asked for.

    Parameters
    ----------
    given
        The other volume.
    role
        What it is given as.
    dwi
        The DWI.

    Raises
    ------
    VolumeError
        If both have the same grid and values.
    """
    if given.grid.matches(dwi.grid) and np.array_equal(given.data, dwi.data):
        raise VolumeError(
            f"{given.name}: the DWI itself, given as `{role}`; give the right file",
            code=ErrorCode.INPUT_FLAIR if role is Role.FLAIR else ErrorCode.INPUT_DIFFUSION,
        )


def _labels(distinct: int, equal: float) -> str:
    if distinct == 2:
        return "mask: all voxels have one of 2 values"
    if not equal:
        return f"label map: it has only {distinct} distinct values"
    return (
        f"label map or atlas: {equal:.0%} of neighbouring voxels have the same of {distinct} values"
    )


def _equal_neighbours(data: FloatArray) -> float:
    """Fraction of neighbours in the central half with the same value, on the axis with fewest.

    Zeros do not count: they are the background of images as well. The first axis on which the
    fraction is that of an image is enough.
    """
    centre = data[tuple(slice(n // 4, max(n // 4 + 1, n - n // 4)) for n in data.shape)]
    centre = centre.copy(order="K")
    occupied = centre != 0
    fractions = []
    for axis in range(3):
        along, seen = np.moveaxis(centre, axis, 0), np.moveaxis(occupied, axis, 0)
        total = np.count_nonzero(seen[:-1] | seen[1:])
        if total >= _MIN_PAIRS:
            equal = (along[:-1] == along[1:]) & seen[1:]
            fractions.append(np.count_nonzero(equal) / total)
            if fractions[-1] <= _MAX_EQUAL:
                break
    return min(fractions, default=0.0)


def _wrapped_bits(data: FloatArray) -> int | None:
    """Bits of the integer type whose range the values left, None if they did not."""
    lowest = float(data.min())
    if lowest >= 0:
        return None
    highest = float(data.max())
    # The mean of directions holds integers only where one of them is negative.
    negative = data[data < 0]
    are_integers = bool((negative == np.rint(negative)).all())
    step, slack = (1.0, 1.0) if are_integers else (_step(data), _SLACK)
    for bits in _INTEGER_BITS:
        full = step * 2.0**bits
        jump = np.float32(_WRAPPED_STEP * full)
        fits = -full / 2 <= lowest / slack and highest / slack < full / 2
        reaches = are_integers or min(highest, -lowest) > _WRAPPED_REACH * full / 2
        if fits and reaches and highest - lowest > jump:
            steps = (np.abs(np.diff(data, axis=axis)) > jump for axis in range(3))
            if sum(int(np.count_nonzero(each)) for each in steps) >= _MIN_WRAPPED:
                return bits
    return None


def _step(data: FloatArray) -> float:
    """What integers were multiplied with: the distance of the closest values."""
    distances = np.diff(np.unique(sample(data, _SAMPLE)))
    if not distances.size:
        return 0.0
    return float(np.median(distances[distances < 1.5 * distances.min()]))
