"""What a predictor finds where there is nothing to find, and what ADC takes of it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.diffusion import RestrictionSpec
from cnnres_infer.pipeline.diffusion import (
    adc_from_b0,
    brain_adc,
    is_unrestricted,
    lesion_adc,
    restricted_shares,
)
from cnnres_infer.predictor import Predictor
from training.lesion_free import Series, find_series

# Where a bundle has no bounds of its own.
_USUAL_BOUNDS = RestrictionSpec(0.85, 0.25)
# The series that the model is meant for.
CLINICAL = ("vol01", "vol02", "vol07")
# Relative ADC does not depend on b, where it is not known.
_ANY_B = 1000.0


def lesion_free_table(predictor: Predictor, data: Path) -> dict[str, Any]:
    """False lesions in every lesion-free series, by DWI alone and with b0.

    Returns
    -------
    dict
        ``series``, a row each, and ``clinical``, the mean over those at b of
        about 1000.
    """
    bounds = bounds_of(predictor)
    rows = [_row(predictor, series, bounds) for series in find_series(data)]
    clinical = [row for row in rows if row["volunteer"] in CLINICAL]
    return {
        **asdict(bounds),
        "series": rows,
        "clinical": {
            "series": len(clinical),
            "ml": float(np.mean([row["ml"] for row in clinical])),
            "without_lesion": sum(row["lesions"] == 0 for row in clinical),
            "ml_with_b0": float(np.mean([row["ml_with_b0"] for row in clinical])),
            "without_lesion_with_b0": sum(row["lesions_with_b0"] == 0 for row in clinical),
        },
    }


def bounds_of(predictor: Predictor) -> RestrictionSpec:
    """The bounds of a predictor's diffusion check, or the usual ones."""
    return predictor.bundle.spec.restriction or _USUAL_BOUNDS


def restricted(
    mask: BoolArray, adc: FloatArray, brain: BoolArray, bounds: RestrictionSpec
) -> tuple[BoolArray, int]:
    """The lesions of a mask (X, Y, Z) that ADC does not reject, and their number."""
    import cc3d

    labels = cc3d.connected_components(mask, connectivity=26)
    below = bounds.relative_adc_below * brain_adc(adc, brain)
    shares = restricted_shares(lesion_adc(labels, adc), below)
    kept = ~is_unrestricted(shares, bounds.smallest_restricted_share)
    return np.r_[False, kept][labels], int(kept.sum())


def _row(predictor: Predictor, series: Series, bounds: RestrictionSpec) -> dict[str, Any]:
    volume, b0 = series.load()
    result = predictor.predict(volume)
    row: dict[str, Any] = {
        "series": series.name,
        "volunteer": series.volunteer,
        "b": series.b,
        "trained_on": not series.held_out,
        "lesions": len(result.lesions),
        "ml": result.mask.volume_ml,
        "lesions_with_b0": None,
        "ml_with_b0": None,
    }
    if b0 is not None:
        adc = adc_from_b0(volume.data, b0, series.b or _ANY_B)
        brain = result.brain.data > 0
        kept, count = restricted(result.mask.data > 0, adc, brain, bounds)
        row["lesions_with_b0"] = count
        row["ml_with_b0"] = int(kept.sum()) * volume.grid.voxel_ml
    return row
