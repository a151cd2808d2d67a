"""Bringing a volume onto another volume's grid, by their places in the patient."""

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import GeometryError


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


def regrid(volume: Volume, grid: Grid) -> tuple[Volume, BoolArray]:
    """Resample trilinearly to another grid, smoothed first where that is coarser.

    Returns
    -------
    volume
        On `grid`; zero where the source has nothing.
    covered
        bool, shape of `grid`: where the source has voxels.

    Raises
    ------
    GeometryError
        If the two do not overlap in space.
    """
    if volume.grid.matches(grid):
        return volume, np.ones(grid.shape, np.bool_)
    to_source = np.linalg.inv(volume.grid.affine) @ grid.affine
    data = _smoothed(volume.data, to_source)
    out = np.zeros(grid.shape, np.float32)
    covered = np.zeros(grid.shape, np.bool_)
    row, column = np.indices(grid.shape[:2], np.float32)
    flat = to_source.astype(np.float32)
    for k in range(grid.shape[2]):
        position = [
            flat[i, 0] * row + flat[i, 1] * column + (flat[i, 2] * k + flat[i, 3]) for i in range(3)
        ]
        inside = np.ones(grid.shape[:2], np.bool_)
        for coordinate, extent in zip(position, data.shape, strict=True):
            inside &= (coordinate >= -0.5) & (coordinate <= extent - 0.5)
        if inside.any():
            out[inside, k] = _interpolated(data, [p[inside] for p in position])
            covered[:, :, k] = inside
    if not covered.any():
        raise GeometryError(
            f"{volume.name} and the DWI do not overlap in space: are they of one session?",
            code=ErrorCode.GRID_OVERLAP,
        )
    return Volume(out, grid, volume.name), covered


def _smoothed(data: FloatArray, to_source: NDArray[np.float64]) -> FloatArray:
    """Widen each voxel to what one step of the target grid covers, against aliasing."""
    for axis in range(3):
        reach = float(np.abs(to_source[axis, :3]).max())
        if reach > 1.0:
            extent = data.shape[axis]
            kernel = resampling(extent, extent, 0.0, 1.0, width=reach)
            kernel /= kernel.sum(axis=1, keepdims=True)
            data = np.moveaxis(np.tensordot(kernel, data, (1, axis)), 0, axis)
    return data


def _interpolated(data: FloatArray, position: list[FloatArray]) -> FloatArray:
    lower, upper, share = [], [], []
    for coordinate, extent in zip(position, data.shape, strict=True):
        clipped = np.clip(coordinate, 0, extent - 1)
        floor = np.minimum(clipped.astype(np.intp), max(extent - 2, 0))
        lower.append(floor)
        upper.append(np.minimum(floor + 1, extent - 1))
        share.append(clipped - floor)
    value = np.zeros_like(position[0])
    for corner in range(8):
        index: list[NDArray[np.intp]] = []
        weight = np.ones_like(value)
        for axis in range(3):
            high = corner >> axis & 1
            index.append(upper[axis] if high else lower[axis])
            weight = weight * (share[axis] if high else 1 - share[axis])
        value += weight * data[tuple(index)]
    return value
