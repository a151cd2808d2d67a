"""A scan as the network sees it, with the expert mask where there is one."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.batch import SliceBatch
from cnnres_infer.core.case import Case
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.pipeline.mask import binarize
from cnnres_infer.pipeline.slices.back import SliceOutputs
from cnnres_infer.pipeline.slices.geometry import SliceGeometry
from export.slices import slices_of


@dataclass(frozen=True, eq=False)
class WholeVolume:
    """A volume all of whose slices are calibrated with or judged.

    Attributes
    ----------
    grid
        The volume's grid.
    geometry
        How its voxels map to the network's images.
    batch
        All of its slices with brain.
    truth
        The expert mask (X, Y, Z), if there is one.
    """

    grid: Grid
    geometry: SliceGeometry
    batch: SliceBatch
    truth: BoolArray | None

    def mask(self, output: FloatArray, spec: ModelSpec) -> BoolArray:
        """Mask (X, Y, Z) from the output (N, 1, H, W) for all slices."""
        found = SliceOutputs(self.grid, self.geometry)
        found.put(self.batch, output)
        mask: BoolArray = binarize(found, spec.mask)[0].data > 0
        return mask


@dataclass(frozen=True, eq=False)
class Scan:
    """The network's images of one scan, with or without an expert mask.

    Attributes
    ----------
    name
        Unique among the scans.
    patient
        Whose scan it is; no patient is on both sides of a split.
    images
        float32 (N, C, H, W).
    lesions
        The expert mask (N, H, W) on these pixels, if there is one.
    whole
        The volume that the images are all slices of; None for single slices.
    """

    name: str
    patient: str
    images: FloatArray
    lesions: BoolArray | None
    whole: WholeVolume | None = None

    @property
    def positions(self) -> FloatArray:
        """(N,): from 0 for a volume's lowest slice to 1 for its highest; 0.5 for a single slice."""
        count = len(self.images)
        return np.linspace(0.0, 1.0, count, dtype=np.float32) if count > 1 else np.full(1, 0.5)

    @classmethod
    def of_case(cls, patient: str, case: Case, truth: BoolArray | None, spec: ModelSpec) -> Self:
        """Cut a case into slices, as `cnnres_infer.predictor.Predictor.predict` does.

        Parameters
        ----------
        truth
            The expert mask (X, Y, Z) on the grid of the case's volume, if there is one.
        """
        geometry, batch = slices_of(case, spec)
        lesions = None
        if truth is not None:
            planes = geometry.planes(truth)[batch.z].astype(np.float32)
            lesions = geometry.to_pixels(planes) > 0.5
        whole = WholeVolume(case.volume.grid, geometry, batch, truth)
        return cls(case.name, patient, batch.images, lesions, whole)
