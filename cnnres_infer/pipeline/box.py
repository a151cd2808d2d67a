"""The part of a volume that a mask occupies."""

from collections.abc import Sequence

import numpy as np

from cnnres_infer.core.arrays import BoolArray


def extent(profile: BoolArray) -> slice:
    """From the first to the last True of a profile (N,); empty if there is none."""
    places = np.flatnonzero(profile)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def bounding_box(mask: BoolArray) -> tuple[slice, slice, slice]:
    """Smallest box of voxels that contains all of a mask (X, Y, Z); empty if the mask is."""
    # Axes in memory order and unflipped, so that contiguous planes are combined.
    backwards = [stride < 0 for stride in mask.strides]
    forwards = mask[tuple(slice(None, None, -1 if flip else 1) for flip in backwards)]
    order = sorted(range(3), key=lambda axis: -forwards.strides[axis])
    planes = forwards.transpose(order)
    plane = np.logical_or.reduce(planes, axis=0)
    profiles = planes.any(axis=(1, 2)), plane.any(axis=1), plane.any(axis=0)
    box = [slice(0, 0)] * 3
    for axis, profile in zip(order, profiles, strict=True):
        box[axis] = extent(profile[::-1] if backwards[axis] else profile)
    x, y, z = box
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
