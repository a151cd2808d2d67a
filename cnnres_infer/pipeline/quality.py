"""Plausibility checks of inputs and masks; they produce warnings, but never change a mask.

The bounds were derived from five DWI volumes and their ADC maps, from three
sources, and from slices of 97 patients of ISLES'22. docs/errors.md reports how
well they separate the two.
"""

from collections.abc import Iterator

import numpy as np

from cnnres_infer.codes import Notice, WarningCode
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.mask import Mask
from cnnres_infer.core.spec import SliceSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.brain import Brain
from cnnres_infer.pipeline.diffusion import ADC_TISSUE
from cnnres_infer.pipeline.slices.normalisation import saturation

# The range of the training data, extended by a quarter, in mm.
_PIXEL_SPACING_MM = (0.18, 2.5)
_SLICE_SPACING_MM = (0.55, 12.0)

# Brains of adults; the lower bound allows for volumes that show only part of the brain.
_BRAIN_ML = (300.0, 2300.0)

# The 95th and 5th percentile relative to the median: the diffusivity of fluid is three times
# that of tissue, and little is far below that of tissue.
_ADC_MIN_P95 = 2.2
_ADC_MIN_P5 = 0.45

# Fractions of the brain.
_MAX_SATURATED = 0.10
_MAX_NEGATIVE = 0.05
_MAX_LESION = 0.5
_NEGLIGIBLE = 0.002

# A float32, since numpy would convert all voxels to search for a zero of another type.
_ZERO = np.float32(0)


def read_notices(case: Case) -> Iterator[Notice]:
    """Collect the warnings of a case's volumes, and warn if others have to be resampled."""
    for volume in case.volumes.values():
        for notice in volume.warnings:
            yield Notice(notice.code, f"{volume.name}: {notice.text}")
    for other in (case.flair, case.adc, case.b0):
        if other is not None and not other.grid.matches(case.volume.grid):
            text = f"{other.name} was resampled to the grid of {case.name}"
            yield Notice(WarningCode.GRID_RESAMPLED, text)


def coverage_notices(what: str, consequence: str, fraction_covered: float) -> Iterator[Notice]:
    """Warn if part of the brain is not covered by a volume that was resampled to its grid.

    Parameters
    ----------
    what
        The volume.
    consequence
        What becomes of the brain there.
    fraction_covered
        Fraction of the brain where the volume has voxels, 0 to 1.
    """
    if 1 - fraction_covered > _NEGLIGIBLE:
        text = f"{1 - fraction_covered:.1%} of the brain has no {what}; {consequence} there"
        yield Notice(WarningCode.GRID_UNCOVERED, text)


def outside_notices(fraction_outside: float) -> Iterator[Notice]:
    """Warn if part of the brain is outside the images, a fraction from 0 to 1."""
    if fraction_outside > _NEGLIGIBLE:
        text = f"{fraction_outside:.1%} of the brain is outside the network's field of view"
        yield Notice(WarningCode.GRID_OUTSIDE, f"{text} and was not segmented")


def input_notices(
    volume: Volume, brain: Brain, modality: Modality, spec: SliceSpec
) -> tuple[Notice, ...]:
    """Check the plausibility of a volume.

    Parameters
    ----------
    volume
        The volume.
    brain
        Its brain mask.
    modality
        The modality that it is said to be.
    spec
        Normalisation of the network's images.
    """
    sorted_values = volume.data[brain.mask]
    sorted_values.sort()
    notices = (
        *_check_spacing(volume),
        *_check_brain_size(volume, brain),
        *_check_adc(sorted_values, modality),
        *_check_intensities(sorted_values, saturation(volume, brain.mask, spec)),
    )
    return tuple(Notice(notice.code, f"{volume.name}: {notice.text}") for notice in notices)


def output_notices(mask: Mask, brain: Brain, rejected: int = 0) -> tuple[Notice, ...]:
    """Check the plausibility of a lesion mask, given the brain mask and the lesions rejected."""
    lesion_voxels = np.count_nonzero(mask.data)
    if not lesion_voxels:
        found = "no lesion is left" if rejected else "no lesion was found"
        return (Notice(WarningCode.MASK_EMPTY, f"{found}: the mask is empty"),)
    fraction = lesion_voxels / np.count_nonzero(brain.mask)
    if fraction <= _MAX_LESION:
        return ()
    text = f"lesions cover {fraction:.0%} of the brain, which is implausible; check the overlay"
    return (Notice(WarningCode.MASK_LARGE, text),)


def _check_spacing(volume: Volume) -> Iterator[Notice]:
    rows, columns, slices = volume.grid.orientation.axes
    spacing = volume.grid.spacing
    for label, steps, (lowest, highest) in (
        ("pixel spacing", (spacing[rows], spacing[columns]), _PIXEL_SPACING_MM),
        ("slice spacing", (spacing[slices],), _SLICE_SPACING_MM),
    ):
        if min(steps) < lowest or max(steps) > highest:
            size = " x ".join(f"{step:.3g}" for step in steps)
            text = f"{label} of {size} mm; the training data have {lowest:g} to {highest:g} mm"
            yield Notice(WarningCode.INPUT_SPACING, text)


def _check_brain_size(volume: Volume, brain: Brain) -> Iterator[Notice]:
    size_ml = np.count_nonzero(brain.mask) * volume.grid.voxel_ml
    if not _BRAIN_ML[0] <= size_ml <= _BRAIN_ML[1]:
        text = (
            f"implausible brain size of {size_ml:.0f} ml; check the overlay, or give `brain_mask`"
        )
        yield Notice(WarningCode.BRAIN_SIZE, text)


def _check_adc(sorted_values: FloatArray, modality: Modality) -> Iterator[Notice]:
    """Recognise ADC maps by the value of tissue, and by fluid being brighter than tissue.

    In DWI, fluid is darker than tissue: little besides lesions is much brighter
    than tissue, and much is darker.
    """
    positive = sorted_values[np.searchsorted(sorted_values, _ZERO, side="right") :]
    if not positive.size:
        return
    p5, median, p95 = np.percentile(positive, (5, 50, 95))
    units = (unit for unit, (low, high, _) in ADC_TISSUE.items() if low <= median <= high)
    unit = next(units, None)
    has_adc_histogram = p95 >= _ADC_MIN_P95 * median and p5 >= _ADC_MIN_P5 * median
    if unit and (has_adc_histogram or unit == "mm2/s"):
        yield Notice(
            WarningCode.INPUT_ADC,
            f"looks like an ADC map in {unit} (median of the brain {median:.3g}) rather than a "
            f"{modality.upper()}; the mask of an ADC map is worthless",
        )


def _check_intensities(sorted_values: FloatArray, ceiling: float) -> Iterator[Notice]:
    """Warn if many voxels of the brain are clipped at `ceiling` or negative."""
    count = sorted_values.size
    saturated = 1 - np.searchsorted(sorted_values, np.float32(ceiling), side="right") / count
    negative = np.searchsorted(sorted_values, _ZERO) / count
    if saturated > _MAX_SATURATED:
        text = f"{saturated:.0%} of the brain is brighter than the network's input range"
        yield Notice(WarningCode.INPUT_INTENSITY, text)
    if negative > _MAX_NEGATIVE:
        yield Notice(WarningCode.INPUT_INTENSITY, f"{negative:.0%} of the brain is negative")
