"""Combination of the probabilities for DWI and FLAIR."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.batch import Box, hull
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
    def z(self) -> list[int]:
        return self._dwi.z

    @property
    def pixels(self) -> Box:
        return hull([self._dwi.pixels, self._flair.pixels])

    def bright(self, rule: Callable[[FloatArray], BoolArray]) -> dict[int, Box]:
        # What is merged is never more than the larger of the two.
        dwi, flair = self._dwi.bright(rule), self._flair.bright(rule)
        return {
            z: hull(each[z] for each in (dwi, flair) if z in each)
            for z in dwi.keys() | flair.keys()
        }

    def planes(self, z: NDArray[np.intp], pixels: Box) -> tuple[Box, FloatArray]:
        box, dwi = self._dwi.planes(z, pixels)
        _, flair = self._flair.planes(z, pixels)
        return box, np.where(self._covered[z, *box], self._spec.merge(dwi, flair), dwi)
