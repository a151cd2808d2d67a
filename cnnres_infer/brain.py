"""Finding the brain: take over a skull-stripped volume, or strip it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.errors import GeometryError, VolumeError
from cnnres_infer.slices import BoolArray, axial_axes, resampling
from cnnres_infer.volume import FloatArray, Volume

_BLANK_SHARE = 0.3
_LARGEST_BRAIN_ML = 2200.0
_BACKGROUND = 0.02
_WORKING_MM = 3.0
_NECK_MM = 6.0
_FOLD_MM = 9.0


@dataclass(frozen=True)
class Brain:
    """Where the brain lies in a volume.

    Attributes
    ----------
    mask
        bool (X, Y, Z), holes filled.
    source
        ``"stripped"`` (the volume came without skull), ``"extracted"`` (found
        here) or ``"given"``.
    """

    mask: BoolArray
    source: str


def find_brain(volume: Volume) -> Brain:
    """Find the brain of a DWI or FLAIR volume.

    A volume of which a good part is blank, and the rest no larger than a
    brain, was stripped before: all that is not blank counts. From any other
    the brain is extracted (`extract_brain`).

    Raises
    ------
    VolumeError
        If there is none.
    """
    data = volume.data
    if np.count_nonzero(data) <= (1 - _BLANK_SHARE) * data.size:
        foreground = (
            data > _BACKGROUND * np.percentile(data[data > 0], 99) if data.max() > 0 else data > 0
        )
        if foreground.sum() * volume.grid.voxel_ml <= _LARGEST_BRAIN_ML:
            return Brain(_checked(_filled(foreground), volume.name), "stripped")
    return Brain(_checked(extract_brain(volume), volume.name), "extracted")


def given_brain(mask: Volume, volume: Volume) -> Brain:
    """Take a brain mask from a file: all that is above one half.

    Raises
    ------
    GeometryError
        If it does not lie on the volume's grid.
    """
    if not mask.grid.matches(volume.grid):
        raise GeometryError(
            f"{mask.name}: the brain mask is on another grid than {volume.name}; resample it first"
        )
    return Brain(_checked(mask.data > 0.5, mask.name), "given")


def extract_brain(volume: Volume) -> BoolArray:
    """Strip skull and scalp from a DWI or FLAIR volume.

    Otsu's threshold on a smoothed copy of about 3 mm pixels, erosion until the
    bridges to eyes and scalp break, the largest piece, grown back and closed,
    slice-wise holes filled.

    Returns
    -------
    bool (X, Y, Z)

    References
    ----------
    N. Otsu, "A threshold selection method from gray-level histograms", IEEE
    Trans. Syst. Man Cybern. 9 (1979) 62-66.
    """
    axes, _ = axial_axes(volume.grid)
    planes = volume.data.transpose(axes)
    spacing = [volume.grid.spacing[axis] for axis in axes]
    shrink = [_shrinking(planes.shape[i], spacing[i]) for i in (0, 1)]
    small = np.moveaxis(shrink[0] @ np.moveaxis(planes, 2, 0) @ shrink[1].T, 0, 2)
    coarse = (max(_WORKING_MM, spacing[0]), max(_WORKING_MM, spacing[1]), spacing[2])

    foreground = small > _otsu(np.maximum(small, 0.0))
    core = _largest(_eroded(foreground, _ball(_NECK_MM, coarse)))
    brain = _dilated(core, _ball(_NECK_MM * 1.25, coarse)) & foreground
    fold = _ball(_FOLD_MM, (coarse[0], coarse[1], np.inf))
    brain = _filled(_eroded(_dilated(brain, fold), fold))

    grow = [_growing(planes.shape[i], spacing[i], small.shape[i]) for i in (0, 1)]
    full = np.moveaxis(grow[0] @ np.moveaxis(brain.astype(np.float32), 2, 0) @ grow[1].T, 0, 2)
    mask = np.empty(volume.grid.shape, np.bool_)
    mask.transpose(axes)[:] = full > 0.5
    return mask


def _checked(mask: BoolArray, name: str) -> BoolArray:
    if not mask.any():
        raise VolumeError(f"{name}: no brain was found; give its mask with --brain-mask")
    mask.setflags(write=False)
    return mask


def _shrinking(extent: int, spacing: float) -> FloatArray:
    step = max(1.0, _WORKING_MM / spacing)
    return resampling(extent, int(np.ceil(extent / step)), (step - 1) / 2, step)


def _growing(extent: int, spacing: float, small: int) -> FloatArray:
    step = max(1.0, _WORKING_MM / spacing)
    return resampling(small, extent, -(step - 1) / 2 / step, 1 / step)


def _otsu(values: FloatArray) -> float:
    """Threshold that parts a histogram into the two most distinct classes."""
    top = float(np.percentile(values, 99.5))
    counts, edges = np.histogram(values, bins=128, range=(0.0, top or 1.0))
    middle = (edges[:-1] + edges[1:]) / 2
    weight = np.cumsum(counts)
    rest = weight[-1] - weight
    total = np.cumsum(counts * middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = weight * rest * (total / weight - (total[-1] - total) / rest) ** 2
    return float(edges[1:][np.nanargmax(between)])


def _ball(radius: float, spacing: tuple[float, float, float]) -> NDArray[np.intp]:
    """Voxel offsets (K, 3) within `radius` mm."""
    reach = [int(radius / step) for step in spacing]
    axes = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
    offsets = np.stack([axis.ravel() for axis in axes], axis=1)
    distance = np.linalg.norm(offsets * np.where(np.isinf(spacing), 0.0, spacing), axis=1)
    return offsets[distance <= radius]


def _dilated(mask: BoolArray, ball: NDArray[np.intp]) -> BoolArray:
    reach = int(abs(ball).max())
    padded = np.pad(mask, reach)
    grown = np.zeros_like(mask)
    for offset in ball:
        grown |= padded[
            tuple(slice(reach + o, reach + o + n) for o, n in zip(offset, mask.shape, strict=True))
        ]
    return grown


def _eroded(mask: BoolArray, ball: NDArray[np.intp]) -> BoolArray:
    return ~_dilated(~mask, ball)


def _largest(mask: BoolArray) -> BoolArray:
    import cc3d

    return np.asarray(cc3d.largest_k(mask, k=1, connectivity=6) > 0)


def _filled(mask: BoolArray) -> BoolArray:
    """Fill what is enclosed by the mask within a slice (last axis)."""
    import cc3d

    outside = np.zeros_like(mask)
    for z in np.flatnonzero(mask.any(axis=(0, 1))):
        pieces = cc3d.connected_components(~np.pad(mask[:, :, z], 1), connectivity=4)
        outside[:, :, z] = pieces[1:-1, 1:-1] == pieces[0, 0]
    outside[:, :, ~mask.any(axis=(0, 1))] = True
    return ~outside
