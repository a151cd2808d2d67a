"""Resampling, along lines of voxels and between grids."""

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import GeometryError
from cnnres_infer.host.deadline import check_time
from cnnres_infer.pipeline.banded import Banded


def resampling(
    n_in: int, n_out: int, start: float, step: float, width: float | None = None
) -> Banded:
    """Matrix that samples a line of values at the positions ``start + step * i``.

    The kernel is a triangle: linear interpolation if `step` is at most 1,
    otherwise widened to `step` to prevent aliasing. Beyond its ends, the line is
    taken as zero.

    Parameters
    ----------
    n_in
        Number of values.
    n_out
        Number of samples.
    start, step
        Position of the first sample and distance between samples, as indices
        of the values.
    width
        Half the base of the kernel, by default ``max(1, step)``.

    Returns
    -------
    Banded
        float32 (n_out, n_in). The rows of samples inside the line sum to 1.
    """
    width = max(1.0, step) if width is None else width
    margin = int(np.ceil(width)) + 1
    position = start + step * np.arange(n_out)
    inside = np.clip(position, -margin / 2, n_in - 1 + margin / 2)
    # Weights beyond the ends count in the sum, and are cut off afterwards.
    first = np.floor(inside - width).astype(np.intp) + 1
    distance = np.abs(first[:, None] + np.arange(int(np.ceil(2 * width))) - inside[:, None])
    weight = np.maximum(0.0, 1.0 - distance / width)
    weight /= weight.sum(axis=1, keepdims=True)
    weight[position != inside] = 0.0
    return Banded.of(n_in, first, weight)


def resampling_matrix(n_in: int, n_out: int, start: float, step: float) -> FloatArray:
    """The matrix of `resampling` as an array, float32 (n_out, n_in)."""
    return resampling(n_in, n_out, start, step).dense()


def regrid(volume: Volume, grid: Grid) -> tuple[Volume, BoolArray]:
    """Resample a volume to another grid by trilinear interpolation.

    Along axes on which the grid is coarser, the volume is smoothed first, to
    prevent aliasing.

    Parameters
    ----------
    volume
        The volume to resample.
    grid
        The target grid.

    Returns
    -------
    volume
        On `grid`; zero where the original has no voxels.
    covered
        bool, of the grid's shape: True where the original has voxels.

    Raises
    ------
    GeometryError
        If the volume and the grid do not overlap in space.
    """
    if volume.grid.matches(grid):
        return volume, np.ones(grid.shape, np.bool_)
    to_source = np.linalg.inv(volume.grid.affine) @ grid.affine
    data = _smooth(volume.data, to_source)
    resampled = np.zeros(grid.shape, np.float32, order="F")
    covered = np.zeros(grid.shape, np.bool_, order="F")
    # Transposed, so that planes are contiguous.
    j, i = np.indices(grid.shape[1::-1], np.float32)
    matrix = to_source.astype(np.float32)
    for k in range(grid.shape[2]):
        check_time()
        # Positions in the original volume of the voxels (:, :, k), as voxel indices.
        position = [row[0] * i + row[1] * j + (row[2] * k + row[3]) for row in matrix[:3]]
        inside = np.ones(i.shape, np.bool_)
        for coordinate, extent in zip(position, data.shape, strict=True):
            inside &= (coordinate >= -0.5) & (coordinate <= extent - 0.5)
        if inside.any():
            resampled[:, :, k].T[inside] = _interpolate(data, [p[inside] for p in position])
            covered[:, :, k] = inside.T
    if not covered.any():
        raise GeometryError(
            f"{volume.name}: does not overlap with the DWI in space; give volumes of the same "
            "session",
            code=ErrorCode.GRID_OVERLAP,
        )
    return Volume(resampled, grid, volume.name), covered


def _smooth(data: FloatArray, to_source: NDArray[np.float64]) -> FloatArray:
    """Smooth along each axis on which a voxel of the target grid is larger than one of `data`.

    Parameters
    ----------
    data
        (X, Y, Z).
    to_source
        (4, 4), voxel indices of the target grid to those of `data`.

    Returns
    -------
    array
        (X, Y, Z), contiguous in the order of NIfTI.
    """
    planes = np.ascontiguousarray(data.T)
    for axis, apply in enumerate((Banded.along_columns, Banded.along_rows, Banded.along_first)):
        width = float(np.abs(to_source[axis, :3]).max())
        if width > 1.0:
            extent = data.shape[axis]
            kernel = resampling(extent, extent, 0.0, 1.0, width=width).averaging()
            planes = apply(kernel, planes)
    return planes.T


def _interpolate(data: FloatArray, position: list[FloatArray]) -> FloatArray:
    """Interpolate trilinearly; positions beyond the outermost voxel centres are clamped.

    Parameters
    ----------
    data
        (X, Y, Z), contiguous in the order of NIfTI.
    position
        Three coordinates (N,), as voxel indices.
    """
    voxels = data.ravel(order="F")
    first = np.zeros(position[0].shape, np.intp)
    fractions, steps, stride = [], [], 1
    for coordinate, extent in zip(position, data.shape, strict=True):
        clamped = np.clip(coordinate, 0, extent - 1)
        floor = np.minimum(clamped.astype(np.intp), max(extent - 2, 0))
        fractions.append(clamped - floor.astype(np.float32))
        first += floor * stride
        steps.append(stride if extent > 1 else 0)
        stride *= extent
    x, y, z = fractions

    def between(offset: int, axes: list[tuple[int, FloatArray]]) -> FloatArray:
        """Interpolate on the axes, of which the first varies slowest."""
        if not axes:
            corner: FloatArray = voxels[offset:].take(first)
            return corner
        (step, fraction), *rest = axes
        lower = between(offset, rest)
        upper = between(offset + step, rest)
        upper -= lower
        upper *= fraction
        upper += lower
        return upper

    return between(0, [(steps[2], z), (steps[1], y), (steps[0], x)])
