"""Reassembly of the network's outputs on the volume's own grid."""

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.batch import SliceBatch
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Probabilities
from cnnres_infer.pipeline.slices.geometry import SliceGeometry


class VolumeAssembler:
    """Assembles the network's outputs, batch by batch, on a volume's own grid.

    Parameters
    ----------
    grid
        The grid of the volume that the batches were extracted from.
    geometry
        The geometry that they were extracted with.
    """

    def __init__(self, grid: Grid, geometry: SliceGeometry) -> None:
        self._grid, self._geometry = grid, geometry
        # In NIfTI's order, in which most volumes store slices contiguously.
        self._data = np.zeros(grid.shape, np.float32, order="F")
        self._planes = geometry.planes(self._data)

    def put(self, batch: SliceBatch, output: FloatArray) -> None:
        """Add the network's output for a batch, float32 (N, 1, H, W)."""
        voxels = self._geometry.to_voxels(batch.framed(output)[:, 0])
        self._planes[batch.z] = np.clip(voxels, 0.0, 1.0, out=voxels)

    def finish(self) -> Probabilities:
        """Return the probabilities; zero in slices never put, and outside the images."""
        return Probabilities(self._data, self._grid)
