"""The part of a volume that a mask occupies."""

from collections.abc import Sequence

import numpy as np

from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.pipeline.voxels import in_memory_order


def extent(profile: BoolArray) -> slice:
    """From the first to the last True of a profile (N,); empty if there is none."""
    places = np.flatnonzero(profile)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def bounding_box(mask: BoolArray) -> tuple[slice, slice, slice]:
    """Smallest box of voxels that contains all of a mask (X, Y, Z); empty if the mask is."""
    x, y, z = map(extent, profiles(mask))
    return x, y, z


def profiles(mask: BoolArray) -> tuple[BoolArray, BoolArray, BoolArray]:
    """For each axis of a mask (X, Y, Z), where along it there is any True: (X,), (Y,), (Z,)."""
    # So that contiguous planes are combined.
    planes, order, steps = in_memory_order(mask)
    plane = np.logical_or.reduce(planes, axis=0)
    pairs = (planes, (1, 2)), (plane, 1), (plane, 0)
    in_order: list[BoolArray] = [np.logical_or.reduce(each, axis) for each, axis in pairs]
    x, y, z = (in_order[order.index(axis)][steps[axis]] for axis in range(3))
    return x, y, z


def widened(
    box: tuple[slice, slice, slice], margin: Sequence[int], shape: Sequence[int]
) -> tuple[slice, slice, slice]:
    """A box with so many more voxels at each end of its axes, as far as the volume goes."""
    x, y, z = (
        slice(max(0, each.start - more), min(count, each.stop + more))
        for each, more, count in zip(box, margin, shape, strict=True)
    )
    return x, y, z
