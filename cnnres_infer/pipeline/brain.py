"""Brain masks: of skull-stripped volumes, by skull stripping, or given by the caller."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.grid import NEGLIGIBLE_MM
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import GeometryError, VolumeError
from cnnres_infer.host.deadline import check_time
from cnnres_infer.pipeline.banded import Banded
from cnnres_infer.pipeline.box import bounding_box
from cnnres_infer.pipeline.chunks import chunks
from cnnres_infer.pipeline.morphology import ball, dilate, erode, fill_holes, main_components
from cnnres_infer.pipeline.resample import resampling
from cnnres_infer.pipeline.slices.normalisation import median_of_tissue, tissue_median
from cnnres_infer.pipeline.values import check_mask_values
from cnnres_infer.pipeline.voxels import sample

# Fraction of the visible voxels that lies in the extracted brain: 0.9 in stripped volumes,
# but at most 0.7 in whole heads, even in slices through the widest part of the brain.
_MIN_STRIPPED_FRACTION = 0.75
_SAMPLE = 1 << 15

# Intensity thresholds, as fractions of the intensity of brain tissue.
_VISIBLE = 0.03
_BRIGHT = 0.5

# Voxel spacing at which the brain is extracted, and half the width of the central region
# whose intensity is taken as the brain's.
_COARSE_SPACING_MM = 3.0
_CENTRE_RADIUS_MM = 35.0

# Erosion by these radii, in turn, separates the brain from scalp, face and eyes; dilation
# by slightly more restores it, and a closing fills sulci.
_EROSION_RADII_MM = (7.5, 9.0, 12.0)
_EXTRA_DILATION_MM = 1.5
_CLOSING_RADIUS_MM = 9.0

_MIN_COMPONENT_FRACTION = 0.2
_MAX_BRAIN_ML = 1900.0

# Less than one half: losing part of a lesion at the surface is worse than keeping some skull.
_MASK_THRESHOLD = 0.25

_ROUNDING_MM = 1e-6


@dataclass(frozen=True, eq=False)
class Brain:
    """The brain mask of a volume.

    Attributes
    ----------
    mask
        bool (X, Y, Z), read-only.
    source
        Where the mask comes from: ``"stripped"`` (the volume was already
        skull-stripped), ``"extracted"`` (by `extract_brain`) or ``"given"``.
    """

    mask: BoolArray
    source: str


def find_brain(volume: Volume) -> Brain:
    """Find the brain in a DWI or FLAIR volume.

    If little else is visible, the volume has already been skull-stripped, and
    all visible voxels are taken, with holes filled. Otherwise, the mask is that
    of `extract_brain`.

    Raises
    ------
    VolumeError
        If no brain is found.
    """
    brain = _nonempty(extract_brain(volume), volume.name)
    if not _is_stripped(volume, brain):
        return Brain(brain, "extracted")
    positive = volume.data > 0
    positive &= brain
    del brain
    tissue = tissue_median(volume, positive)
    del positive
    return stripped_brain(volume, tissue)


def _is_stripped(volume: Volume, brain: BoolArray) -> bool:
    """Whether little else than the brain is visible, judged by a sample of the voxels."""
    # Copied, since voxels that lie far apart in memory are slow to read each time.
    values, inside = sample(volume.data, _SAMPLE).copy(), sample(brain, _SAMPLE).copy()
    tissue = median_of_tissue(values[inside & (values > 0)], volume.name)
    visible = values > _VISIBLE * tissue
    in_brain = np.count_nonzero(visible & inside)
    return bool(in_brain >= _MIN_STRIPPED_FRACTION * np.count_nonzero(visible))


def stripped_brain(volume: Volume, tissue: float | None = None) -> Brain:
    """Brain mask of a skull-stripped volume: all visible voxels, with holes filled.

    Parameters
    ----------
    volume
        A skull-stripped volume.
    tissue
        Intensity of brain tissue; by default, the `tissue_median` of the
        positive voxels.

    Raises
    ------
    VolumeError
        If no voxel is visible.
    """
    tissue = tissue_median(volume, volume.data > 0) if tissue is None else tissue
    visible = volume.data > _VISIBLE * tissue
    fill_holes(volume.grid.orientation.planes(visible))
    return Brain(_nonempty(visible, volume.name), "stripped")


def brain_from_mask(mask: Volume, volume: Volume) -> Brain:
    """Brain mask given by the caller: all voxels above one half.

    Parameters
    ----------
    mask
        The mask.
    volume
        The volume whose brain it is.

    Raises
    ------
    GeometryError
        If the mask is not on the volume's grid, to within 0.1 mm.
    VolumeError
        If the mask is empty, or an image.
    """
    if mask.grid.distance_mm(volume.grid) > NEGLIGIBLE_MM + _ROUNDING_MM:
        raise GeometryError(
            f"{mask.name}: the brain mask is on another grid than {volume.name}; resample it first",
            code=ErrorCode.GRID_MASK,
        )
    check_mask_values(mask)
    return Brain(_nonempty(mask.data > 0.5, mask.name), "given")


def extract_brain(volume: Volume) -> BoolArray:
    """Extract the brain from a DWI or FLAIR volume of the head (skull stripping).

    The brain is segmented at a voxel spacing of about 3 mm, which is fast and
    suppresses noise, but preserves the dark gap around the brain.

    Returns
    -------
    bool (X, Y, Z)
    """
    rows, columns, slices = volume.grid.orientation.axes
    planes = volume.grid.orientation.planes(volume.data)
    spacing = np.array(volume.grid.spacing)[[slices, rows, columns]]
    steps = np.maximum(1.0, _COARSE_SPACING_MM / spacing)
    matrices = [_coarsening(n, step) for n, step in zip(planes.shape, steps, strict=True)]
    to_coarse, to_fine = zip(*matrices, strict=True)

    # In chunks, since temporary arrays of the whole volume would be large; contiguous, so
    # that sums are rounded the same way in all orientations.
    reduced = [
        _resample_in_plane(np.ascontiguousarray(planes[chunk]), to_coarse)
        for chunk in chunks(len(planes))
    ]
    coarse_image = to_coarse[0].along_first(np.concatenate(reduced))
    coarse_brain = _segment_coarse(coarse_image, spacing * steps)
    mask = np.zeros_like(volume.data, np.bool_)
    if not coarse_brain.any():
        return mask
    box = bounding_box(coarse_brain)
    fine_box, growing = zip(
        *(matrix.over(extent) for matrix, extent in zip(to_fine, box, strict=True)), strict=True
    )
    restored = growing[0].along_first(coarse_brain[box].astype(np.float32))
    mask_planes = volume.grid.orientation.planes(mask)[fine_box]
    for chunk in chunks(len(restored)):
        check_time()
        fine = _resample_in_plane(restored[chunk], growing)
        np.greater(fine, _MASK_THRESHOLD, mask_planes[chunk])
    return mask


def _segment_coarse(image: FloatArray, spacing: NDArray[np.float64]) -> BoolArray:
    """Segment the brain in a coarse image (slices, rows, columns).

    Bright voxels are eroded until the brain is separated from scalp, face and
    eyes. The main components are dilated again, sulci closed and holes filled.
    Erosion by a large radius loses thin parts, so the radius is increased only
    while the result is larger than any brain.
    """
    bright = brain = image > _BRIGHT * _brain_intensity(image, spacing)
    for radius in _EROSION_RADII_MM:
        check_time()
        core = erode(bright, ball(radius, spacing))
        if not core.any():
            break
        main = main_components(core, _MIN_COMPONENT_FRACTION)
        brain = dilate(main, ball(radius + _EXTRA_DILATION_MM, spacing))
        brain &= bright
        if np.count_nonzero(brain) * spacing.prod() / 1000 <= _MAX_BRAIN_ML:
            break
    disc = ball(_CLOSING_RADIUS_MM, spacing * (np.inf, 1, 1))
    closed = erode(dilate(brain, disc), disc)
    fill_holes(closed)
    return closed


def _brain_intensity(image: FloatArray, spacing: NDArray[np.float64]) -> float:
    """Typical intensity of brain tissue, independent of lesions, scalp and eyes.

    Except in the lowest and highest slices, the centre of the head contains
    little but brain. Its median is robust to lesions, and it is located with
    clipped intensities, which are robust to bright structures.
    """
    clipped = np.clip(image, 0.0, max(0.0, float(image.mean()))).sum(axis=0)
    centre = image
    for axis in (1, 2):
        cumulative = np.cumsum(clipped.sum(axis=2 - axis))
        middle = int(np.searchsorted(cumulative, cumulative[-1] / 2))
        radius = int(_CENTRE_RADIUS_MM / spacing[axis])
        indices = np.arange(max(0, middle - radius), min(image.shape[axis], middle + radius + 1))
        centre = centre.take(indices, axis)
    # NumPy sorts several times as fast as it selects medians.
    ranked = np.sort(centre.reshape(len(centre), -1), axis=1)
    rank = (ranked.shape[1] - 1) / 2
    medians = (ranked[:, int(rank)] + ranked[:, int(rank + 0.5)]) / 2
    return float(np.percentile(medians, 75))


def _nonempty(mask: BoolArray, name: str) -> BoolArray:
    """Make a mask read-only, unless it is empty."""
    if not mask.any():
        raise VolumeError(
            f"{name}: no brain was found; give one with `brain_mask`", code=ErrorCode.BRAIN_NONE
        )
    mask.setflags(write=False)
    return mask


# Kept, since scans of one protocol share their grid.
@lru_cache(maxsize=12)
def _coarsening(extent: int, step: float) -> tuple[Banded, Banded]:
    """Matrices that resample a line of voxels to a `step` times larger spacing, and back.

    The rows sum to 1, so that intensities do not fade where a volume cuts off
    the head.
    """
    coarse_extent = int(np.ceil(extent / step))
    to_coarse = resampling(extent, coarse_extent, (step - 1) / 2, step)
    to_fine = resampling(coarse_extent, extent, (1 / step - 1) / 2, 1 / step)
    return to_coarse.averaging(), to_fine.averaging()


def _resample_in_plane(planes: FloatArray, matrices: Sequence[Banded]) -> FloatArray:
    """Resample (slices, rows, columns) along rows and columns, but not across slices."""
    _, rows, columns = matrices
    return columns.along_columns(rows.along_rows(planes))
