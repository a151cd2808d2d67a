"""The mapping between the voxels of a grid and the pixels of the network's images."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.batch import Box
from cnnres_infer.core.grid import Grid, Orientation, T
from cnnres_infer.core.spec import SliceSpec
from cnnres_infer.errors import VolumeError
from cnnres_infer.pipeline.banded import Banded
from cnnres_infer.pipeline.box import extent, profiles
from cnnres_infer.pipeline.resample import resampling
from cnnres_infer.pipeline.voxels import counts

# Fraction of the brain that is ignored at either end of its extent: eyes and noise.
_TAIL_FRACTION = 0.005


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """The mapping between the voxels of a grid and the pixels of the network's images.

    Attributes
    ----------
    orientation
        How the grid's axes map to those of the images.
    box
        The slices, rows and columns that hold the brain.
    z
        (N,), read-only: the slices with brain, counted from inferior.
    rows, columns
        (size, extent): resampling matrices from voxels to pixels.
    rows_back, columns_back
        (extent, size): resampling matrices from pixels to voxels.
    place
        The rows and columns of pixels that the box reaches; all others are zero.
    brain_rows, brain_columns
        The part of `rows` and `columns` from the box to the place.
    """

    orientation: Orientation
    box: tuple[slice, slice, slice]
    z: NDArray[np.intp]
    rows: Banded
    columns: Banded
    rows_back: Banded
    columns_back: Banded
    place: Box
    brain_rows: Banded
    brain_columns: Banded

    @classmethod
    def of(cls, grid: Grid, brain: BoolArray, spec: SliceSpec) -> Self:
        """Centre the network's field of view on the brain.

        The centre is that of the brain's in-plane extent, rounded so that a grid
        with the network's spacing is only shifted, not interpolated. For images
        that are cut to the brain, pixels lie symmetrically about the centre: a
        mirrored volume has the mirrored images.

        Parameters
        ----------
        grid
            The grid of the volume.
        brain
            bool (X, Y, Z), True in the brain.
        spec
            Size and spacing of the images.

        Raises
        ------
        VolumeError
            If `brain` is empty.
        """
        orientation = grid.orientation
        along = profiles(orientation.planes(brain))
        box = extent(along[0]), extent(along[1]), extent(along[2])
        z = np.flatnonzero(along[0])
        z.setflags(write=False)
        inside = orientation.planes(brain)[box]
        if not inside.size:
            raise VolumeError(
                "no brain was found in the volume; give one with `brain_mask`",
                code=ErrorCode.BRAIN_NONE,
            )
        occupied = counts(inside, 0)
        spacing = grid.spacing
        pairs = []
        for image_axis in (0, 1):
            axis, first = orientation.axes[image_axis], box[1 + image_axis].start
            count = grid.shape[axis]
            profile = occupied.sum(axis=1 - image_axis)
            step = spec.spacing / spacing[axis]
            if spec.frame == "whole":
                start = first + _profile_centre(profile) - step * (spec.size // 2)
            else:
                start = first + _symmetric_centre(profile) - step * (spec.size - 1) / 2
            forward = resampling(count, spec.size, start, step)
            back = resampling(spec.size, count, -start / step, 1 / step)
            pairs.append((forward, back))
        (rows, rows_back), (columns, columns_back) = pairs
        place_rows, brain_rows = rows.over(box[1])
        place_columns, brain_columns = columns.over(box[2])
        return cls(
            orientation,
            box,
            z,
            rows,
            columns,
            rows_back,
            columns_back,
            (place_rows, place_columns),
            brain_rows,
            brain_columns,
        )

    def planes(self, data: NDArray[T]) -> NDArray[T]:
        """View an array (X, Y, Z) as (slices, rows, columns), without copying."""
        return self.orientation.planes(data)

    def fraction_outside(self, brain: BoolArray) -> float:
        """Fraction of the brain, bool (X, Y, Z), beyond the edges of the images, 0 to 1."""
        rows, columns = (
            back.dense().sum(axis=1) > 0.5 for back in (self.rows_back, self.columns_back)
        )
        occupied = counts(self.orientation.view(brain), 2)
        return 1.0 - float(occupied[rows][:, columns].sum() / occupied.sum())

    def to_pixels(self, planes: FloatArray) -> FloatArray:
        """Resample planes of voxels (N, rows, columns) to pixels (N, H, W)."""
        return self.columns.along_columns(self.rows.along_rows(planes))

    def to_voxels(self, images: FloatArray) -> FloatArray:
        """Resample pixels (N, H, W) to planes of voxels (N, rows, columns)."""
        return self.columns_back.along_columns(self.rows_back.along_rows(images))

    def brain_to_pixels(self, planes: FloatArray) -> FloatArray:
        """Resample the rows and columns of the `box` of planes to the pixels of the `place`."""
        return self.brain_columns.along_columns(self.brain_rows.along_rows(planes))

    def deciding(self, pixels: Box) -> Box:
        """All pixels with a share in those voxels that some of them have a share in."""
        rows, columns = pixels
        return self.rows_back.reach(rows), self.columns_back.reach(columns)

    def part_to_voxels(self, pixels: FloatArray, part: Box) -> tuple[Box, FloatArray]:
        """Resample a part of images, beyond which they are zero.

        Parameters
        ----------
        pixels
            (N, h, w).
        part
            The rows and columns that they are.

        Returns
        -------
        box
            Rows and columns of the voxels; all others are zero.
        planes
            (N, rows, columns): what is there.
        """
        (rows, row_matrix), (columns, column_matrix) = (
            matrix.over(span)
            for matrix, span in zip((self.rows_back, self.columns_back), part, strict=True)
        )
        return (rows, columns), column_matrix.along_columns(row_matrix.along_rows(pixels))


def _profile_centre(profile: NDArray[np.intp]) -> int:
    """Index of the centre of a profile (N,), ignoring its tails."""
    return (sum(_profile_ends(profile)) + 1) // 2


def _symmetric_centre(profile: NDArray[np.intp]) -> float:
    """Position of the centre of a profile (N,) between two voxels, ignoring its tails.

    Of the two such positions around a centre on a voxel, it is the one on the
    heavier side; if both sides are equal, the centre stays on the voxel.
    """
    ends = sum(_profile_ends(profile))
    if ends % 2:
        return ends / 2
    moment = np.sum(profile * (2 * np.arange(len(profile)) - ends))
    return (ends + int(np.sign(moment))) / 2


def _profile_ends(profile: NDArray[np.intp]) -> tuple[int, int]:
    """Indices of the first and the last voxel of a profile (N,), ignoring its tails."""
    cumulative = np.cumsum(profile) / profile.sum()
    first, last = np.searchsorted(cumulative, (_TAIL_FRACTION, 1 - _TAIL_FRACTION))
    return int(first), int(last)
