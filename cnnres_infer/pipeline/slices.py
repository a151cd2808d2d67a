"""Slices: from a volume to the images that the network sees, and exactly back.

An image of the network is an axial slice in radiological orientation: row 0 is
anterior, column 0 is the patient's right. Training, export and inference all
come through here, so that all of them see the same images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.volume import FloatArray, Grid, Probabilities, Volume
from cnnres_infer.errors import GeometryError, VolumeError

BoolArray = NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)

_BRAIN_EXTENT_TAIL = 0.005
_TISSUE_FLOOR = 0.5


@dataclass(frozen=True)
class SliceSpec:
    """What the network expects of its images.

    Attributes
    ----------
    size
        Height and width in pixels.
    spacing
        Pixel size in mm, the same for rows and columns.
    ceiling
        The intensity that becomes 1.0, in multiples of the tissue median
        (`tissue_median`); what is brighter is cut off there.
    """

    size: int
    spacing: float
    ceiling: float


@dataclass(frozen=True, eq=False)
class SliceBatch:
    """Some images of one volume.

    Attributes
    ----------
    images
        float32 (N, C, H, W) in [0, 1]; rows run from anterior to posterior,
        columns from the patient's right to left.
    z
        (N,) index of each image along the grid's slice axis.
    """

    images: FloatArray
    z: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """How the voxels of a grid map to the pixels of the network's images.

    Attributes
    ----------
    axes
        Voxel axis of the image rows, of its columns, and of the slices.
    flips
        Whether each of these three runs against its voxel axis.
    rows, columns
        float32 (size, extent): resampling from voxels to pixels.
    rows_back, columns_back
        float32 (extent, size): resampling from pixels to voxels.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
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
        axes, flips = axial_axes(grid)
        inside = oriented(brain, axes, flips)
        if not inside.any():
            raise VolumeError(
                "no brain was found in the volume: give its mask with --brain-mask",
                code="E-BRAIN-NONE",
            )
        occupied = inside.sum(axis=2)
        spacing = grid.spacing
        pairs = []
        for image_axis in (0, 1):
            extent = inside.shape[image_axis]
            centre = _middle(occupied.sum(axis=1 - image_axis))
            step = spec.spacing / spacing[axes[image_axis]]
            start = centre - step * (spec.size // 2)
            forward = resampling(extent, spec.size, start, step)
            back = resampling(spec.size, extent, -start / step, 1 / step)
            pairs.append((forward, back))
        (rows, rows_back), (columns, columns_back) = pairs
        return cls(axes, flips, rows, columns, rows_back, columns_back)

    def oriented(self, data: NDArray[T]) -> NDArray[T]:
        """View voxels (X, Y, Z) as (rows, columns, slices) of the images."""
        return oriented(data, self.axes, self.flips)

    def planes(self, data: NDArray[T]) -> NDArray[T]:
        """View voxels (X, Y, Z) as (slices, rows, columns)."""
        return np.moveaxis(self.oriented(data), 2, 0)

    def share_outside(self, brain: BoolArray) -> float:
        """Share of the brain (X, Y, Z) that lies beyond the images' edges, 0 to 1."""
        rows = self.rows_back.sum(axis=1) > 0.5
        columns = self.columns_back.sum(axis=1) > 0.5
        occupied = np.count_nonzero(self.oriented(brain), axis=2)
        return 1.0 - float(occupied[rows][:, columns].sum() / occupied.sum())

    def to_pixels(self, planes: FloatArray) -> FloatArray:
        """Resample planes of voxels (N, rows, columns) to pixels (N, H, W)."""
        pixels: FloatArray = np.matmul(np.matmul(self.rows, planes), self.columns.T)
        return pixels

    def to_voxels(self, images: FloatArray) -> FloatArray:
        """Resample pixels (N, H, W) to planes of voxels (N, rows, columns)."""
        planes: FloatArray = np.matmul(np.matmul(self.rows_back, images), self.columns_back.T)
        return planes


def axial_axes(grid: Grid) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Voxel axes that run closest to posterior, left and superior.

    Of the six ways to assign three voxel axes to three directions, the one
    with the largest sum of direction cosines is taken, so that oblique grids
    too get three different axes.

    Returns
    -------
    axes
        The voxel axes of rows (anterior to posterior), columns (right to
        left) and slices (inferior to superior).
    flips
        Whether each must be reversed to run that way.

    Raises
    ------
    GeometryError
        If two axes of the grid are parallel.
    """
    cosines = grid.affine[:3, :3] / np.asarray(grid.spacing)
    if abs(np.linalg.det(cosines)) < 1e-3:
        raise GeometryError("two axes of the volume are parallel: its sform or qform is broken")
    permutations = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    left, posterior, superior = max(
        permutations, key=lambda p: sum(abs(cosines[world, p[world]]) for world in range(3))
    )
    flips = (
        bool(cosines[1, posterior] > 0),
        bool(cosines[0, left] > 0),
        bool(cosines[2, superior] < 0),
    )
    return (posterior, left, superior), flips


def oriented(
    data: NDArray[T], axes: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> NDArray[T]:
    """View voxels (X, Y, Z) as (rows, columns, slices); see `axial_axes`."""
    view = data.transpose(axes)
    return view[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def resampling(
    n_in: int, n_out: int, start: float, step: float, width: float | None = None
) -> FloatArray:
    """Matrix that samples a line of `n_in` values at ``start + step * i``.

    A triangle kernel: linear interpolation where `step` is at most 1, and
    widened to `step` where samples are dropped, against aliasing. Beyond the
    ends the line is taken as zero.

    Parameters
    ----------
    width
        Half the kernel's base, by default ``max(1, step)``.

    Returns
    -------
    float32 (n_out, n_in), rows summing to 1 inside the line.
    """
    width = max(1.0, step) if width is None else width
    pad = int(np.ceil(width)) + 1
    position = start + step * np.arange(n_out)
    index = np.arange(-pad, n_in + pad)
    inside = np.clip(position, -pad / 2, n_in - 1 + pad / 2)
    weight = np.maximum(0.0, 1.0 - np.abs(index - inside[:, None]) / width)
    weight /= weight.sum(axis=1, keepdims=True)
    weight[position != inside] = 0.0
    return np.ascontiguousarray(weight[:, pad:-pad], dtype=np.float32)


def tissue_median(volume: Volume, brain: BoolArray) -> float:
    """Median intensity of brain tissue, the unit of the network's intensities.

    The median over brain voxels brighter than half of the brain's upper
    quartile: without fluid and edges it hardly differs between one slice in
    the middle of a brain and the whole of it.

    Raises
    ------
    VolumeError
        If the brain holds no positive intensities.
    """
    # numpy sorts with vector instructions; in what is sorted, quantiles are found at once.
    values = volume.data[brain]
    values.sort()
    quartile = np.percentile(values, 75) if values.size else 0.0
    if not quartile > 0:
        raise VolumeError(
            f"{volume.name}: the brain is dark, most of its voxels are not positive; give an image "
            "with positive intensities",
            code="E-BRAIN-NONE",
        )
    first = np.searchsorted(values, _TISSUE_FLOOR * quartile, side="right")
    return float(np.median(values[first:]))


def saturation(volume: Volume, brain: BoolArray, spec: SliceSpec) -> float:
    """Intensity that becomes 1.0; voxels of zero, which stripping leaves, do not count.

    Raises
    ------
    VolumeError
        If the brain holds no positive intensities.
    """
    seen = volume.data != 0
    seen &= brain
    return spec.ceiling * tissue_median(volume, seen)


def to_batches(
    channels: tuple[Volume, ...],
    brain: BoolArray,
    geometry: SliceGeometry,
    spec: SliceSpec,
    batch_size: int,
) -> Iterator[SliceBatch]:
    """Cut volumes on one grid into normalised batches of the slices with brain.

    Parameters
    ----------
    channels
        The network's input channels, all on one grid.
    brain
        bool (X, Y, Z); voxels outside become 0, slices without any are left out.
    geometry
        The mapping of that grid.
    spec
        What the network expects.
    batch_size
        Most slices in a batch.
    """
    occupied = np.flatnonzero(geometry.oriented(brain).any(axis=(0, 1)))
    scales = [1.0 / saturation(volume, brain, spec) for volume in channels]
    for first in range(0, len(occupied), batch_size):
        z = occupied[first : first + batch_size]
        images = np.empty((len(z), len(channels), spec.size, spec.size), np.float32)
        outside = ~geometry.planes(brain)[z]
        for channel, (volume, scale) in enumerate(zip(channels, scales, strict=True)):
            planes = geometry.planes(volume.data)[z]
            # What overflows is brighter than the ceiling, and cut off there.
            with np.errstate(over="ignore"):
                planes *= np.float32(scale)
            np.clip(planes, 0.0, 1.0, out=planes)
            planes[outside] = 0.0
            images[:, channel] = geometry.to_pixels(planes)
        yield SliceBatch(images, z)


def all_slices(
    channels: tuple[Volume, ...], brain: BoolArray, spec: SliceSpec
) -> tuple[SliceGeometry, SliceBatch]:
    """Cut all slices with brain in one batch; see `to_batches`."""
    grid = channels[0].grid
    geometry = SliceGeometry.of(grid, brain, spec)
    (batch,) = to_batches(channels, brain, geometry, spec, max(grid.shape))
    return geometry, batch


class Canvas:
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


def _middle(occupied: NDArray[np.intp]) -> int:
    """Whole index in the middle of a profile, thin tails (eyes, noise) left out."""
    share = np.cumsum(occupied) / occupied.sum()
    first, last = np.searchsorted(share, (_BRAIN_EXTENT_TAIL, 1 - _BRAIN_EXTENT_TAIL))
    return int(first + last + 1) // 2
