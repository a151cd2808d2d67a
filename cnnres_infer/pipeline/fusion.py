"""Combination of the probabilities for DWI and FLAIR."""

import numpy as np

from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.core.spec import FusionSpec
from cnnres_infer.core.volume import Probabilities


def fuse(
    dwi: Probabilities, flair: Probabilities, covered: BoolArray, spec: FusionSpec
) -> Probabilities:
    """Combine probabilities for DWI and FLAIR on the same grid.

    Parameters
    ----------
    dwi, flair
        The probabilities for each modality.
    covered
        bool (X, Y, Z), True where the FLAIR has voxels; elsewhere, the
        probabilities for the DWI are used unchanged.
    spec
        The fusion rule.
    """
    merged = spec.merge(dwi.data, flair.data)
    return Probabilities(np.where(covered, merged, dwi.data), dwi.grid)
