"""Combination of the probabilities for DWI and FLAIR."""

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.spec import FusionSpec
from cnnres_infer.pipeline.slices.back import LesionMap, SliceOutputs
from cnnres_infer.pipeline.slices.geometry import SliceGeometry


class Fused(LesionMap):
    """The combined probabilities for DWI and FLAIR on the same grid.

    Parameters
    ----------
    dwi, flair
        The network's outputs for each modality.
    geometry
        The geometry of their slices.
    covered
        bool (X, Y, Z), True where the FLAIR has voxels; elsewhere, the
        probabilities for the DWI are used unchanged.
    spec
        The fusion rule.
    """

    def __init__(
        self,
        dwi: SliceOutputs,
        flair: SliceOutputs,
        geometry: SliceGeometry,
        covered: BoolArray,
        spec: FusionSpec,
    ) -> None:
        super().__init__(dwi.grid, geometry)
        self._dwi, self._flair, self._spec = dwi, flair, spec
        self._covered = geometry.planes(covered)

    @property
    def z(self) -> NDArray[np.intp]:
        return self._dwi.z

    def planes(self, z: NDArray[np.intp]) -> FloatArray:
        dwi = self._dwi.planes(z)
        return np.where(self._covered[z], self._spec.merge(dwi, self._flair.planes(z)), dwi)
