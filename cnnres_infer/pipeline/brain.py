"""Finding the brain: take over a skull-stripped volume, or strip it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import GeometryError, VolumeError
from cnnres_infer.pipeline.resample import resampling
from cnnres_infer.pipeline.slices.normalisation import tissue_median

# Of what is visible in a stripped volume 0.9 is found to be brain; in a head
# at most 0.7, even in slices through the brain's widest part.
_STRIPPED_SHARE = 0.75

# Intensities as multiples of the brain's.
_VISIBLE = 0.03
_BRIGHT = 0.5

# Lengths in mm: pixels to work on, half the width of the head's middle, half
# the widths of bridges to break, folds to close.
_WORKING_STEP = 3.0
_MIDDLE = 35.0
_BRIDGES = (7.5, 9.0, 12.0)
_REGROWTH = 1.5
_FOLD = 9.0

_MAIN_PIECE = 0.2
_LARGEST_BRAIN_ML = 1900.0

# Below one half: part of a lesion at the surface costs more than some skull.
_EDGE = 0.25

# Slices that are resampled at once.
_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Brain:
    """Where the brain lies in a volume.

    Attributes
    ----------
    mask
        bool (X, Y, Z), read-only.
    source
        ``"stripped"`` (the volume came without skull), ``"extracted"`` (found
        here) or ``"given"``.
    """

    mask: BoolArray
    source: str


def find_brain(volume: Volume) -> Brain:
    """Find the brain of a DWI or FLAIR volume.

    If hardly more than the brain is visible, the volume was stripped before:
    all that is visible is taken, holes filled. Otherwise the brain is what
    `extract_brain` finds.

    Raises
    ------
    VolumeError
        If there is none.
    """
    brain = _checked(extract_brain(volume), volume.name)
    positive = volume.data > 0
    positive &= brain
    tissue = tissue_median(volume, positive)
    del positive
    visible = volume.data > _VISIBLE * tissue
    every = np.count_nonzero(visible)
    visible &= brain
    if np.count_nonzero(visible) < _STRIPPED_SHARE * every:
        return Brain(brain, "extracted")
    del brain, visible
    return stripped_brain(volume, tissue)


def stripped_brain(volume: Volume, tissue: float | None = None) -> Brain:
    """Take all that is visible in a volume known to be stripped, holes filled.

    Parameters
    ----------
    tissue
        Intensity of brain tissue; by default the median of what is positive.

    Raises
    ------
    VolumeError
        If nothing is visible.
    """
    tissue = tissue_median(volume, volume.data > 0) if tissue is None else tissue
    visible = volume.data > _VISIBLE * tissue
    _fill(volume.grid.orientation.planes(visible))
    return Brain(_checked(visible, volume.name), "stripped")


def given_brain(mask: Volume, volume: Volume) -> Brain:
    """Take a brain mask from a file: all that is above one half.

    Raises
    ------
    GeometryError
        If it does not lie on the volume's grid.
    VolumeError
        If it is empty.
    """
    if not mask.grid.matches(volume.grid):
        raise GeometryError(
            f"{mask.name}: the brain mask is on another grid than {volume.name}; resample it first",
            code=ErrorCode.GRID_MASK,
        )
    return Brain(_checked(mask.data > 0.5, mask.name), "given")


def extract_brain(volume: Volume) -> BoolArray:
    """Strip skull and scalp from a DWI or FLAIR volume.

    Works on voxels of about 3 mm, which drowns noise and is fast, yet leaves
    the dark gap around the brain.

    Returns
    -------
    bool (X, Y, Z)
    """
    rows, columns, slices = volume.grid.orientation.axes
    planes = volume.grid.orientation.planes(volume.data)
    spacing = np.array(volume.grid.spacing)[[slices, rows, columns]]
    steps = np.maximum(1.0, _WORKING_STEP / spacing)
    samplings = [_samplings(n, step) for n, step in zip(planes.shape, steps, strict=True)]
    shrink, grow = zip(*samplings, strict=True)

    # Some slices at a time: coarse images are small, those of the volume need not be.
    # One order in memory for all orientations: sums then round the same way.
    small = [_in_plane(np.ascontiguousarray(planes[part]), shrink) for part in _parts(len(planes))]
    brain = _brain(np.tensordot(shrink[0], np.concatenate(small), 1), spacing * steps)
    coarse = np.tensordot(grow[0], brain.astype(np.float32), 1)
    mask = np.empty_like(volume.data, np.bool_)
    inside = volume.grid.orientation.planes(mask)
    for part in _parts(len(planes)):
        np.greater(_in_plane(coarse[part], grow), _EDGE, inside[part])
    return mask


def _brain(image: FloatArray, spacing: NDArray[np.float64]) -> BoolArray:
    """Brain in coarse (slices, rows, columns): what is bright, parted from scalp, face and eyes.

    Erosion breaks the bridges between them; what remains of the brain is
    regrown, its folds are closed and its holes filled. Deep erosion loses thin
    parts, so it goes deeper only while the rest is larger than any brain.
    """
    bright = brain = image > _BRIGHT * _brightness(image, spacing)
    for depth in _BRIDGES:
        core = _eroded(bright, _ball(depth, spacing))
        if not core.any():
            break
        brain = _dilated(_main_pieces(core), _ball(depth + _REGROWTH, spacing)) & bright
        if np.count_nonzero(brain) * spacing.prod() / 1000 <= _LARGEST_BRAIN_ML:
            break
    disc = _ball(_FOLD, spacing * (np.inf, 1, 1))
    closed = _eroded(_dilated(brain, disc), disc)
    _fill(closed)
    return closed


def _brightness(image: FloatArray, spacing: NDArray[np.float64]) -> float:
    """Typical intensity of the brain, whatever the brightness of lesions, scalp and eyes.

    The middle of the head holds hardly anything but brain, save for the slices
    below and above it. A median withstands lesions, and the middle is sought
    with intensities clipped, so that nothing bright attracts it.
    """
    head = np.clip(image, 0.0, max(0.0, float(image.mean())))
    middle = image
    for axis in (1, 2):
        share = np.cumsum(head.sum(axis=(0, 3 - axis)))
        centre = int(np.searchsorted(share, share[-1] / 2))
        reach = int(_MIDDLE / spacing[axis])
        around = np.arange(max(0, centre - reach), min(image.shape[axis], centre + reach + 1))
        middle = middle.take(around, axis)
    return float(np.percentile(np.median(middle, axis=(1, 2)), 75))


def _checked(mask: BoolArray, name: str) -> BoolArray:
    if not mask.any():
        raise VolumeError(
            f"{name}: no brain was found; give its mask as `brain_mask`",
            code=ErrorCode.BRAIN_NONE,
        )
    mask.setflags(write=False)
    return mask


def _samplings(extent: int, step: float) -> tuple[FloatArray, FloatArray]:
    """Matrices from a line of voxels to one `step` times as coarse, and back.

    Their rows sum to 1, so that nothing fades where a volume ends in the head.
    """
    coarse = int(np.ceil(extent / step))
    shrink = resampling(extent, coarse, (step - 1) / 2, step)
    grow = resampling(coarse, extent, (1 / step - 1) / 2, 1 / step)
    return shrink / shrink.sum(axis=1, keepdims=True), grow / grow.sum(axis=1, keepdims=True)


def _in_plane(planes: FloatArray, samplings: Sequence[FloatArray]) -> FloatArray:
    """Resample (slices, rows, columns) along rows and columns, not across slices."""
    _, rows, columns = samplings
    resampled: FloatArray = np.matmul(np.matmul(rows, planes), columns.T)
    return resampled


def _parts(count: int) -> list[slice]:
    return [slice(first, first + _AT_ONCE) for first in range(0, count, _AT_ONCE)]


def _ball(radius: float, spacing: NDArray[np.float64]) -> NDArray[np.intp]:
    """Voxel offsets (K, 3) within `radius` mm; none along an axis of infinite spacing."""
    reach = (radius / spacing).astype(np.intp)
    offsets = np.argwhere(np.ones(2 * reach + 1)) - reach
    distance = np.linalg.norm(offsets * np.where(reach, spacing, 0.0), axis=1)
    ball: NDArray[np.intp] = offsets[distance <= radius]
    return ball


def _dilated(mask: BoolArray, ball: NDArray[np.intp]) -> BoolArray:
    """Dilate by a ball, whose lines along the last axis are centred and of odd length."""
    reach = ball.max(axis=0)
    lines = [np.pad(mask, [(n, n) for n in reach])]
    for n in range(1, reach[2] + 1):
        lines.append(lines[-1] | np.roll(lines[0], n, axis=2) | np.roll(lines[0], -n, axis=2))
    grown = np.zeros_like(mask)
    for plane, row, half in ball[np.r_[np.any(np.diff(ball[:, :2], axis=0), axis=1), True]]:
        start = (plane + reach[0], row + reach[1], reach[2])
        window = tuple(slice(i, i + n) for i, n in zip(start, mask.shape, strict=True))
        grown |= lines[half][window]
    return grown


def _eroded(mask: BoolArray, ball: NDArray[np.intp]) -> BoolArray:
    return ~_dilated(~mask, ball)


def _main_pieces(mask: BoolArray) -> BoolArray:
    """The largest piece and others of its order, as the hemispheres are in high slices."""
    import cc3d

    pieces = cc3d.connected_components(mask, connectivity=6)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    kept: BoolArray = (sizes >= _MAIN_PIECE * sizes.max())[pieces]
    return kept


def _fill(mask: BoolArray) -> None:
    """Fill in place what a mask (slices, rows, columns) encloses within a slice."""
    import cc3d

    for plane in mask:
        pieces = cc3d.connected_components(np.pad(~plane, 1, constant_values=True), connectivity=4)
        np.not_equal(pieces[1:-1, 1:-1], pieces[0, 0], out=plane)
