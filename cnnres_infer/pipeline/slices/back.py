"""From the network's outputs back to the volume's own grid."""

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Probabilities
from cnnres_infer.pipeline.slices.batches import SliceBatch
from cnnres_infer.pipeline.slices.geometry import SliceGeometry


class VolumeAssembler:
    """Takes the network's outputs, batch by batch, onto a volume's own grid.

    Parameters
    ----------
    grid
        The grid of the volume that the batches were cut from.
    geometry
        The mapping that they were cut with.
    """

    def __init__(self, grid: Grid, geometry: SliceGeometry) -> None:
        self._grid, self._geometry = grid, geometry
        # In the order of NIfTI files, where a slice mostly lies in one piece.
        self._data = np.zeros(grid.shape, np.float32, order="F")
        self._planes = geometry.planes(self._data)

    def put(self, batch: SliceBatch, output: FloatArray) -> None:
        """Take the network's output for a batch, float32 (N, 1, H, W)."""
        voxels = self._geometry.to_voxels(output[:, 0])
        self._planes[batch.z] = np.clip(voxels, 0.0, 1.0, out=voxels)

    def finish(self) -> Probabilities:
        """What was put; exactly zero in other slices and outside the network's field of view."""
        return Probabilities(self._data, self._grid)
