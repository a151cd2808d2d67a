"""Whether what goes in and what comes out can be true; nothing here changes a mask.

The bounds were derived from five DWI volumes and their ADC maps, of three
sources, and from slices of 97 patients of ISLES'22; docs/errors.md tells how
well they part them.
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
from cnnres_infer.pipeline.slices.normalisation import saturation

# mm: of the images that the network was trained on, and a quarter beyond.
_PIXELS = (0.18, 2.5)
_SLICES = (0.55, 12.0)

# ml: brains of adults, and hardly less where a volume shows part of one.
_BRAIN_ML = (300.0, 2300.0)

# Diffusivity of brain tissue in the three units that ADC maps come in, and its
# spread: fluid diffuses three times as fast, and little is slower.
_ADC_UNITS = {
    "mm2/s": (3e-4, 3e-3),
    "10^-3 mm2/s": (0.3, 3.0),
    "10^-6 mm2/s": (300.0, 3000.0),
}
_ADC_FLUID = 2.2
_ADC_DARK = 0.45

# Shares of the brain: brighter than the network can see, and below zero.
_MOST_SATURATED = 0.10
_MOST_NEGATIVE = 0.05

_LARGEST_SHARE = 0.5
_NEGLIGIBLE_SHARE = 0.002

# In the type of voxels: to search for another, numpy would convert them all.
_ZERO = np.float32(0)


def read_notices(case: Case) -> Iterator[Notice]:
    """Repeat what was odd about the files, and tell whether the FLAIR was resampled."""
    for each in case.volumes.values():
        for notice in each.warnings:
            yield Notice(notice.code, f"{each.name}: {notice.text}")
    if case.flair is not None and not case.flair.grid.matches(case.volume.grid):
        text = f"{case.flair.name} was resampled to the grid of {case.name}"
        yield Notice(WarningCode.GRID_RESAMPLED, text)


def grid_notices(share_outside: float, share_without: float) -> Iterator[Notice]:
    """Warn of shares of the brain (0 to 1) outside the images, and without a FLAIR."""
    if share_without > _NEGLIGIBLE_SHARE:
        text = f"{share_without:.1%} of the brain has no FLAIR: there the DWI alone decides"
        yield Notice(WarningCode.GRID_UNCOVERED, text)
    if share_outside > _NEGLIGIBLE_SHARE:
        text = f"{share_outside:.1%} of the brain lies outside the network's field of view"
        yield Notice(WarningCode.GRID_OUTSIDE, f"{text} and was not searched")


def input_notices(
    volume: Volume, brain: Brain, modality: Modality, spec: SliceSpec
) -> tuple[Notice, ...]:
    """Judge a volume whose brain is known.

    Parameters
    ----------
    modality
        What it is taken for.
    spec
        What the network expects of its images.
    """
    values = volume.data[brain.mask]
    values.sort()
    found = (
        *_spacing(volume),
        *_brain_size(volume, brain),
        *_adc(values, modality),
        *_intensities(values, saturation(volume, brain.mask, spec)),
    )
    return tuple(Notice(notice.code, f"{volume.name}: {notice.text}") for notice in found)


def output_notices(mask: Mask, brain: Brain) -> tuple[Notice, ...]:
    """Judge a mask against the brain that it lies in."""
    lesion = np.count_nonzero(mask.data)
    if not lesion:
        return (Notice(WarningCode.MASK_EMPTY, "no lesion was found: the mask is empty"),)
    share = lesion / np.count_nonzero(brain.mask)
    if share <= _LARGEST_SHARE:
        return ()
    text = f"lesions take {share:.0%} of the brain, which no stroke does: look at the picture"
    return (Notice(WarningCode.MASK_LARGE, text),)


def _spacing(volume: Volume) -> Iterator[Notice]:
    rows, columns, slices = volume.grid.orientation.axes
    spacing = volume.grid.spacing
    for what, steps, (least, most) in (
        ("pixels", (spacing[rows], spacing[columns]), _PIXELS),
        ("slices", (spacing[slices],), _SLICES),
    ):
        if min(steps) < least or max(steps) > most:
            found = " x ".join(f"{step:.3g}" for step in steps)
            text = f"{what} of {found} mm; the training data's range is {least:g} to {most:g}"
            yield Notice(WarningCode.INPUT_SPACING, text)


def _brain_size(volume: Volume, brain: Brain) -> Iterator[Notice]:
    size = np.count_nonzero(brain.mask) * volume.grid.voxel_ml
    if not _BRAIN_ML[0] <= size <= _BRAIN_ML[1]:
        text = f"the brain found is of {size:.0f} ml: check the overlay, or give a `brain_mask`"
        yield Notice(WarningCode.BRAIN_SIZE, text)


def _adc(values: FloatArray, modality: Modality) -> Iterator[Notice]:
    """Recognise an ADC map by the value of tissue, by bright fluid and by the lack of dark.

    `values` are those of the brain, the least first.

    In DWI fluid is darker than tissue, so hardly anything but lesions is
    brighter, and much is darker.
    """
    positive = values[np.searchsorted(values, _ZERO, side="right") :]
    if not positive.size:
        return
    dark, middle, bright = np.percentile(positive, (5, 50, 95))
    unit = next((u for u, (least, most) in _ADC_UNITS.items() if least <= middle <= most), None)
    shaped = bright >= _ADC_FLUID * middle and dark >= _ADC_DARK * middle
    if unit and (shaped or unit == "mm2/s"):
        yield Notice(
            WarningCode.INPUT_ADC,
            f"looks like an ADC map in {unit} (brain at {middle:.3g}), not a {modality.upper()}: "
            "the mask is worth nothing if it is one",
        )


def _intensities(values: FloatArray, most: float) -> Iterator[Notice]:
    """Judge the brain's values, the least first, of which those above `most` are cut off."""
    saturated = 1 - np.searchsorted(values, np.float32(most), side="right") / values.size
    negative = np.searchsorted(values, _ZERO) / values.size
    if saturated > _MOST_SATURATED:
        text = f"{saturated:.0%} of the brain is brighter than the network can see"
        yield Notice(WarningCode.INPUT_INTENSITY, text)
    if negative > _MOST_NEGATIVE:
        yield Notice(WarningCode.INPUT_INTENSITY, f"{negative:.0%} of the brain is below zero")
