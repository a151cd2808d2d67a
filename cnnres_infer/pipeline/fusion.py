"""Merging what the network says of DWI and of FLAIR."""

import numpy as np

from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.core.spec import FusionSpec
from cnnres_infer.core.volume import Probabilities


def fuse(
    dwi: Probabilities, flair: Probabilities, covered: BoolArray, spec: FusionSpec
) -> Probabilities:
    """Merge two answers on one grid; where the FLAIR has no voxels, the DWI alone decides.

    Parameters
    ----------
    covered
        bool (X, Y, Z): where the FLAIR has voxels.
    """
    merged = spec.merge(dwi.data, flair.data)
    return Probabilities(np.where(covered, merged, dwi.data), dwi.grid)
