"""What limits accuracy: the patients trained on, small lesions, shading that is left over."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cnnres_infer.core.case import Modality
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.brain import find_brain
from cnnres_infer.pipeline.shading import remove_shading
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers import load_volume
from cnnres_infer.selection.select import Selection
from cnnres_infer.verification.agreement import dice
from training.agreement import shaded
from training.data import (
    VALIDATION_VOLUMES,
    Images,
    load_training_slices,
    load_validation_slices,
    volume_paths,
)
from training.evaluate import answers_of

# Edges of classes of lesions, in pixels of a slice and in ml.
_PIXELS = (0, 50, 250, 1000, np.inf)
_ML = (0.0, 0.1, 0.5, np.inf)
_THRESHOLDS = np.linspace(0.05, 0.95, 19)
_SHARES = (0.05, 0.1, 0.2, 0.4)


def limits(predictor: Predictor, data: Path) -> dict[str, Any]:
    """Measure what limits a predictor.

    Returns
    -------
    dict
        ``patients``: Dice of slices of patients trained on and held out, which
        differ by what more patients could teach; ``lesions``: how many of the
        validation volumes are found, missed and false, by size; ``shading``: Dice
        of masks when a share of a coil's gain is left, instead of removed.
    """
    return {
        "patients": [
            _patients(predictor, images, modality, group)
            for group, pair in (
                ("trained on", load_training_slices(data, predictor.bundle.spec.slices)),
                ("held out", load_validation_slices(data, predictor.bundle.spec.slices)),
            )
            for modality, images in zip(Modality, pair, strict=True)
        ],
        "lesions": [_lesions(predictor, data, case) for case in VALIDATION_VOLUMES],
        "shading": [_left_over(predictor, data, case) for case in VALIDATION_VOLUMES],
    }


def _patients(
    predictor: Predictor, images: Images, modality: Modality, group: str
) -> dict[str, Any]:
    answers = answers_of(predictor.engine, images)
    truth = images.masks > 0.5
    pixels = truth.sum(axis=(1, 2))
    mask = predictor.bundle.spec.mask
    each = np.array([dice(a, b) for a, b in zip(mask.apply(answers), truth, strict=True)])
    best = [
        max(dice(answer > threshold, expert) for threshold in _THRESHOLDS)
        for answer, expert in zip(answers, truth, strict=True)
    ]
    classes = [(low, (pixels > low) & (pixels <= high)) for low, high in pairwise(_PIXELS)]
    return {
        "modality": str(modality),
        "patients": group,
        "count": len(images),
        "dice": float(each.mean()),
        "dice_at_best_thresholds": float(np.mean(best)),
        "dice_by_pixels": {
            f"over {low:.0f}": [int(chosen.sum()), float(each[chosen].mean())]
            for low, chosen in classes
            if chosen.any()
        },
    }


def _lesions(predictor: Predictor, data: Path, case: str) -> dict[str, Any]:
    """Lesions of the expert found and missed, and false ones, by volume, with the ADC known."""
    import cc3d

    image, expert = volume_paths(data, case)
    result = predictor.predict(image, adc=image.with_name(f"{case}_adc.nii.gz"))
    found, truth = result.mask.data > 0, load_volume(expert).data > 0.5
    counts: dict[str, dict[str, int]] = {}
    for own, other, hit, miss in (
        (truth, found, "found", "missed"),
        (found, truth, "true", "false"),
    ):
        labels = cc3d.connected_components(own, connectivity=26)
        ml = np.bincount(labels.ravel())[1:] * result.mask.grid.voxel_ml
        touched = np.isin(np.arange(1, len(ml) + 1), np.unique(labels[other]))
        for low, high in pairwise(_ML):
            inside = (ml > low) & (ml <= high)
            row = counts.setdefault(f"over {low} ml", {})
            row[hit], row[miss] = int((inside & touched).sum()), int((inside & ~touched).sum())
    return {"case": case, **counts}


def _left_over(predictor: Predictor, data: Path, case: str) -> dict[str, Any]:
    volume = load_volume(volume_paths(data, case)[0])
    brain = find_brain(volume).mask
    spec = predictor.bundle.spec
    as_it_is = replace(spec, slices=replace(spec.slices, shading="none"))
    bundle = replace(predictor.bundle, spec=as_it_is)
    flat = Predictor(bundle, Selection(predictor.engine))
    even = remove_shading(volume, brain)

    def change(predictor: Predictor, image: Volume, share: float) -> float:
        before = predictor.predict(image).mask.data > 0
        after = (predictor.predict(each).mask.data > 0 for each in shaded(image, share))
        return float(np.mean([dice(before, mask) for mask in after]))

    left = {f"{share:.0%}": change(flat, even, share) for share in _SHARES}
    return {"case": case, "left": left, "corrected": change(predictor, volume, 1.0)}
