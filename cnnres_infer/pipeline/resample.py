"""Bringing a volume onto another volume's grid, by their places in the patient."""

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.volume import FloatArray, Grid, Volume
from cnnres_infer.errors import GeometryError
from cnnres_infer.pipeline.slices import BoolArray, resampling


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
            code="E-GRID-OVERLAP",
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
