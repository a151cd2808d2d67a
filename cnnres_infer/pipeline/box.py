"""The part of a volume that a mask occupies."""

import numpy as np

from cnnres_infer.core.arrays import BoolArray


def bounding_box(mask: BoolArray) -> tuple[slice, slice, slice]:
    """Smallest box of voxels that contains all of a mask (X, Y, Z); empty if the mask is."""
    box = []
    for axes in ((1, 2), (0, 2), (0, 1)):
        places = np.flatnonzero(mask.any(axis=axes))
        box.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0))
    x, y, z = box
    return x, y, z
