"""Bounds of the diffusion check, compared on labelled volumes and on lesion-free volunteers."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.diffusion import RestrictionSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.diffusion import adc_from_b0
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers import load_volume
from cnnres_infer.verification.agreement import dice
from training.data import VALIDATION_VOLUMES, volume_paths
from training.evaluate import lesion_f1
from training.lesion_free import find_series
from training.lesion_free_table import CLINICAL, restricted

_BELOW = (0.75, 0.8, 0.85, 0.9, 0.95)
_SHARES = (0.15, 0.25, 0.35, 0.5)


class Row(NamedTuple):
    """Accuracy with a pair of bounds, or without a diffusion check.

    Attributes
    ----------
    bounds
        The bounds; None for masks without a diffusion check.
    dice, lesion_f1
        Means over the labelled volumes.
    false_ml, without_lesion
        Of the clinical series of volunteers: mean volume, and share with an empty mask.
    """

    bounds: RestrictionSpec | None
    dice: float
    lesion_f1: float
    false_ml: float
    without_lesion: float


class _Segmented(NamedTuple):
    mask: BoolArray
    adc: FloatArray
    brain: BoolArray
    truth: BoolArray
    voxel_ml: float

    def kept_by(self, bounds: RestrictionSpec | None) -> BoolArray:
        if bounds is None:
            return self.mask
        return restricted(self.mask, self.adc, self.brain, bounds)[0]


def compare_restrictions(predictor: Predictor, data: Path) -> Iterator[Row]:
    """Compare bounds with each other, and with no diffusion check at all."""
    labelled, volunteers = list(_labelled(predictor, data)), list(_volunteers(predictor, data))
    for bounds in (None, *(RestrictionSpec(*each) for each in product(_BELOW, _SHARES))):
        masks = [(case.kept_by(bounds), case.truth) for case in labelled]
        false_ml = [case.kept_by(bounds).sum() * case.voxel_ml for case in volunteers]
        yield Row(
            bounds,
            float(np.mean([dice(*each) for each in masks])),
            float(np.mean([lesion_f1(*each) for each in masks])),
            float(np.mean(false_ml)),
            float(np.mean(np.equal(false_ml, 0))),
        )


def _labelled(predictor: Predictor, data: Path) -> Iterator[_Segmented]:
    for case in VALIDATION_VOLUMES:
        image, expert = volume_paths(data, case)
        adc = load_volume(image.with_name(f"{case}_adc.nii.gz")).data
        yield _segmented(predictor, load_volume(image), adc, load_volume(expert).data > 0.5)


def _volunteers(predictor: Predictor, data: Path) -> Iterator[_Segmented]:
    for series in find_series(data):
        if series.volunteer in CLINICAL and series.b is not None:
            volume, b0 = series.load()
            if b0 is not None:
                adc = adc_from_b0(volume.data, b0, series.b)
                yield _segmented(predictor, volume, adc, np.zeros(b0.shape, np.bool_))


def _segmented(
    predictor: Predictor, volume: Volume, adc: FloatArray, truth: BoolArray
) -> _Segmented:
    result = predictor.predict(volume)
    mask, brain = result.mask, result.brain.data > 0
    return _Segmented(mask.data > 0, adc, brain, truth, mask.grid.voxel_ml)
