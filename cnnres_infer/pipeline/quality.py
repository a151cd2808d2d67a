"""Plausibility checks of inputs and masks; they produce warnings, but never change a mask.

How a brain looks is measured in `cnnres_infer.pipeline.appearance`. docs/images.md
reports how well the bounds tell DWI and FLAIR from other images.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from cnnres_infer.codes import Notice, WarningCode
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.mask import Mask
from cnnres_infer.core.spec import SliceSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.appearance import Appearance, slice_shape
from cnnres_infer.pipeline.brain import Brain
from cnnres_infer.pipeline.diffusion import ADC_TISSUE
from cnnres_infer.pipeline.slices.normalisation import median_of_tissue, ranked
from cnnres_infer.pipeline.voxels import nonzero_in, voxels_in

# The range of the training data, extended by a quarter, in mm.
_PIXEL_SPACING_MM = (0.18, 2.5)
_SLICE_SPACING_MM = (0.55, 12.0)

# Brains of adults; the lower bound allows for volumes that show only part of the brain.
_BRAIN_ML = (300.0, 2300.0)

# Width, length and filling of the brain's largest slice: those of slices of 1,400 patients,
# extended by a tenth.
_WIDTH_MM, _LENGTH_MM, _FILL = (95.0, 180.0), (110.0, 230.0), (0.55, 0.92)

# Fluid, relative to tissue: 2 to 3 in ADC maps, and less in nearly all b0 and T2.
_ADC_MIN_BRIGHTEST = 1.9

# Intensities relative to the brain's median.
_MAX_BACKGROUND = 0.3
_NEGATIVE, _FAR_BELOW_ZERO, _MAX_FAR_BELOW_ZERO = -0.1, -1.0, 10
# The background is looked at if it is at least this part of the volume.
_MIN_AROUND = 0.05
# Hounsfield units.
_AIR_HU, _LOWEST_HU, _MIN_AIR = -800.0, -4100.0, 0.05

# Fractions of the brain.
_MAX_SATURATED = 0.10
_MAX_NEGATIVE = 0.02
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
    values = nonzero_in(volume.data, brain.mask)
    median = _positive_median(values)
    ceiling = spec.ceiling * median_of_tissue(values, volume.name)
    saturated = np.count_nonzero(values > np.float32(ceiling)) / np.count_nonzero(brain.mask)
    del values
    notices = (
        *_check_spacing(volume),
        *_check_brain_size(volume, brain),
        *_check_contrast(volume, brain.mask, median, modality),
        *_check_saturation(saturated),
        *_check_negative(volume, brain, median),
    )
    return _named(volume, notices)


def flair_notices(flair: Volume, covered: BoolArray) -> tuple[Notice, ...]:
    """Check the plausibility of a FLAIR that is combined with a DWI.

    Parameters
    ----------
    flair
        The FLAIR on the grid of the DWI.
    covered
        bool (X, Y, Z), True in the brain where the FLAIR has voxels.
    """
    median = _positive_median(voxels_in(flair.data, covered))
    return _named(flair, _check_contrast(flair, covered, median, Modality.FLAIR))


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
    remedy = "check its outline in the overlay, or give `brain_mask`"
    if brain.source == "given":
        remedy = "check the brain mask that was given"
    if not _BRAIN_ML[0] <= size_ml <= _BRAIN_ML[1]:
        text = f"implausible brain size of {size_ml:.0f} ml; {remedy}"
        yield Notice(WarningCode.BRAIN_SIZE, text)
    width, length, fill = slice_shape(volume, brain.mask)
    for value, (lowest, highest) in ((width, _WIDTH_MM), (length, _LENGTH_MM), (fill, _FILL)):
        if not lowest <= value <= highest:
            text = (
                f"implausible brain shape: its largest slice is {width:.0f} mm wide, {length:.0f} "
                f"mm long and fills {fill:.0%} of that; {remedy}"
            )
            yield Notice(WarningCode.BRAIN_SIZE, text)
            break


def _check_contrast(
    volume: Volume, brain: BoolArray, median: float, modality: Modality
) -> Iterator[Notice]:
    """Recognise images that are neither DWI nor FLAIR, by how the brain and its surroundings look.

    ADC maps are recognised by the value of tissue, too.
    """
    units = (unit for unit, (low, high, _) in ADC_TISSUE.items() if low <= median <= high)
    unit = next(units, None)
    looks = Appearance.of(volume, brain)
    has_adc_contrast = (
        looks is not None and looks.has_bright_fluid and looks.brightest > _ADC_MIN_BRIGHTEST
    )
    if unit and (has_adc_contrast or unit == "mm2/s"):
        yield Notice(
            WarningCode.INPUT_ADC,
            f"looks like an ADC map in {unit} (median of the brain {median:.3g}) rather than a "
            f"{modality.upper()}; the mask of an ADC map is worthless",
        )
        return
    objections = (
        None if looks is None else looks.objection,
        _background_objection(volume, brain, median),
    )
    for text in filter(None, objections):
        yield Notice(
            WarningCode.INPUT_CONTRAST,
            f"{text}; the model knows only DWI of b about 1000 s/mm² and FLAIR",
        )


def _background_objection(volume: Volume, brain: BoolArray, median: float) -> str | None:
    """What the voxels around the brain tell, by every eighth of them."""
    data = volume.data[::2, ::2, ::2]
    around = voxels_in(data, ~brain[::2, ::2, ::2])
    if around.size < _MIN_AROUND * data.size:
        return None
    air = np.count_nonzero((around < _AIR_HU) & (around > _LOWEST_HU)) / around.size
    if air > _MIN_AIR:
        return f"looks like CT: {air:.0%} of the background is below {_AIR_HU:.0f}, as air is"
    if ranked(around, 0.25 * (around.size - 1)) > _MAX_BACKGROUND * median:
        return "looks like an inverted image or a phase map: the background is bright"
    return None


def _check_saturation(saturated: float) -> Iterator[Notice]:
    """Warn if a large fraction of the brain is clipped."""
    if saturated > _MAX_SATURATED:
        text = f"{saturated:.0%} of the brain is brighter than the network's input range"
        yield Notice(WarningCode.INPUT_INTENSITY, text)


def _check_negative(volume: Volume, brain: Brain, median: float) -> Iterator[Notice]:
    """Warn of negative voxels, wherever they are: they are never taken for brain."""
    lowest = float(volume.data.min())
    if lowest >= _NEGATIVE * median:
        return
    size = np.count_nonzero(brain.mask)
    negative = np.count_nonzero(volume.data < np.float32(_NEGATIVE * median))
    far = np.count_nonzero(volume.data < np.float32(_FAR_BELOW_ZERO * median))
    if negative > _MAX_NEGATIVE * size or far > _MAX_FAR_BELOW_ZERO:
        text = (
            f"{negative} voxels are well below zero, the lowest is {lowest:.4g}; for comparison, "
            f"the brain has {size} voxels and a median of {median:.4g}; give a magnitude image, "
            "neither standardised nor converted to another type"
        )
        yield Notice(WarningCode.INPUT_INTENSITY, text)


def _positive_median(values: FloatArray) -> float:
    """Median of the positive values, which are reordered; zero if there are none."""
    positive = int(np.count_nonzero(values > _ZERO))
    return ranked(values, values.size - positive + positive // 2) if positive else 0.0


def _named(volume: Volume, notices: Iterable[Notice]) -> tuple[Notice, ...]:
    return tuple(Notice(notice.code, f"{volume.name}: {notice.text}") for notice in notices)
