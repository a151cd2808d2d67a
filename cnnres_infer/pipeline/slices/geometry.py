"""How the voxels of a grid map to the pixels of the network's images."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.grid import Grid, Orientation, T
from cnnres_infer.core.spec import SliceSpec
from cnnres_infer.errors import VolumeError
from cnnres_infer.pipeline.resample import resampling

_BRAIN_EXTENT_TAIL = 0.005


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """How the voxels of a grid map to the pixels of the network's images.

    Attributes
    ----------
    orientation
        How the grid's axes become those of the images.
    rows, columns
        float32 (size, extent): resampling from voxels to pixels.
    rows_back, columns_back
        float32 (extent, size): resampling from pixels to voxels.
    """

    orientation: Orientation
    rows: FloatArray
    columns: FloatArray
    rows_back: FloatArray
    columns_back: FloatArray

    @classmethod
    def of(cls, grid: Grid, brain: BoolArray, spec: SliceSpec) -> Self:
        """Lay the network's field of view over the brain.

        Parameters
        ----------
        grid
            The grid of the volume.
        brain
            bool (X, Y, Z), True in the brain. The field of view is centred on
            its in-plane extent, on a whole voxel, so that a grid which has the
            network's spacing already is only shifted, never interpolated.
        spec
            Size and spacing of the images.

        Raises
        ------
        VolumeError
            If `brain` is empty.
        """
        orientation = grid.orientation
        inside = orientation.view(brain)
        if not inside.any():
            raise VolumeError(
                "no brain was found in the volume: give its mask as `brain_mask`",
                code=ErrorCode.BRAIN_NONE,
            )
        occupied = inside.sum(axis=2)
        spacing = grid.spacing
        pairs = []
        for image_axis in (0, 1):
            extent = inside.shape[image_axis]
            centre = _middle(occupied.sum(axis=1 - image_axis))
            step = spec.spacing / spacing[orientation.axes[image_axis]]
            start = centre - step * (spec.size // 2)
            forward = resampling(extent, spec.size, start, step)
            back = resampling(spec.size, extent, -start / step, 1 / step)
            pairs.append((forward, back))
        (rows, rows_back), (columns, columns_back) = pairs
        return cls(orientation, rows, columns, rows_back, columns_back)

    def planes(self, data: NDArray[T]) -> NDArray[T]:
        """View voxels (X, Y, Z) as (slices, rows, columns) of the images."""
        return self.orientation.planes(data)

    def share_outside(self, brain: BoolArray) -> float:
        """Share of the brain (X, Y, Z) that lies beyond the images' edges, 0 to 1."""
        rows = self.rows_back.sum(axis=1) > 0.5
        columns = self.columns_back.sum(axis=1) > 0.5
        occupied = np.count_nonzero(self.orientation.view(brain), axis=2)
        return 1.0 - float(occupied[rows][:, columns].sum() / occupied.sum())

    def to_pixels(self, planes: FloatArray) -> FloatArray:
        """Resample planes of voxels (N, rows, columns) to pixels (N, H, W)."""
        pixels: FloatArray = np.matmul(np.matmul(self.rows, planes), self.columns.T)
        return pixels

    def to_voxels(self, images: FloatArray) -> FloatArray:
        """Resample pixels (N, H, W) to planes of voxels (N, rows, columns)."""
        planes: FloatArray = np.matmul(np.matmul(self.rows_back, images), self.columns_back.T)
        return planes


def _middle(occupied: NDArray[np.intp]) -> int:
    """Whole index in the middle of a profile, thin tails (eyes, noise) left out."""
    share = np.cumsum(occupied) / occupied.sum()
    first, last = np.searchsorted(share, (_BRAIN_EXTENT_TAIL, 1 - _BRAIN_EXTENT_TAIL))
    return int(first + last + 1) // 2
