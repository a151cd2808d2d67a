"""Accuracy of a bundle against expert masks, on patients that it never saw."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.spec import FUSION_RULES, FusionSpec
from cnnres_infer.engines.base import Engine, run_all
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.host.machine import usable_cores
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers import load_volume
from cnnres_infer.selection.offers import open_engine
from cnnres_infer.selection.select import Selection
from cnnres_infer.verification.agreement import dice
from export.volume_outputs import torch_engine
from network.checkpoint import load_checkpoint
from network.cnnres import CNNRes
from network.engine import TorchEngine
from network.steadiness import steadiness, with_noise
from training.agreement import agreement
from training.data import VALIDATION_VOLUMES, Images, load_validation_slices, volume_paths
from training.lesion_free_table import bounds_of, lesion_free_table, restricted

_BACKENDS = {
    Precision.FP32: "ort",
    Precision.FP16: "torch",
    Precision.BF16: "openvino",
    Precision.INT8: "ort",
}
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6)
_WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def evaluate_all(bundle: Bundle, data: Path) -> dict[str, Any]:
    """Measure every precision of a bundle that this machine can compute.

    float16 is computed by PyTorch, bfloat16 by OpenVINO, the others by ONNX Runtime.

    Returns
    -------
    dict
        What goes into ``model.json`` as ``accuracy``.
    """
    precisions = {}
    for precision in _BACKENDS:
        try:
            engine = precise_engine(bundle, precision)
        except BackendUnavailableError:
            continue
        with engine:
            precisions[precision] = evaluate(Predictor(bundle, Selection(engine)), data)
    network = load_checkpoint(bundle.folder / bundle.variants["fp32"])
    with open_engine(bundle, "ort", Precision.FP32) as engine:
        rest = evaluate_beyond(Predictor(bundle, Selection(engine)), network, data)
    return {
        "command": "python -m training evaluate BUNDLE --data DATA",
        "precisions": precisions,
        **rest,
    }


def evaluate_weights(bundle: Bundle, network: CNNRes, data: Path) -> dict[str, Any]:
    """Measure a network that is in no bundle yet, with the settings of one."""
    engine = TorchEngine(network, usable_cores(), sides=bundle.spec.slices.sides)
    predictor = Predictor(bundle, Selection(engine))
    return {
        "precisions": {"fp32": evaluate(predictor, data)},
        **evaluate_beyond(predictor, network, data),
    }


def evaluate_beyond(predictor: Predictor, network: CNNRes, data: Path) -> dict[str, Any]:
    """Measure what no expert need judge: volunteers, crops, mirrored volumes, 8 bits.

    Parameters
    ----------
    predictor
        What to measure.
    network
        Its network in PyTorch.
    data
        Folder of the collections of real MRI.
    """
    return {
        "lesion_free": lesion_free_table(predictor, data),
        "agreement": agreement(predictor.bundle, network, data),
    }


def precise_engine(bundle: Bundle, precision: Precision) -> Engine:
    """Open the engine that computes a precision on a CPU: float16 is left to PyTorch.

    Raises
    ------
    BackendUnavailableError
        If it is not installed, or the bundle or the processor lacks the precision.
    """
    if precision is Precision.FP16:
        return torch_engine(bundle, precision=precision)
    # An earlier verdict must not keep a precision from being judged again.
    return open_engine(replace(bundle, failed=frozenset()), _BACKENDS[precision], precision)


def evaluate(predictor: Predictor, data: Path) -> dict[str, Any]:
    """Measure a predictor on the validation volumes and slices."""
    spec = predictor.bundle.spec
    dwi, flair = load_validation_slices(data, spec.slices)
    answers = {
        name: answers_of(predictor.engine, x) for name, x in (("dwi", dwi), ("flair", flair))
    }
    answers["dwi and flair"] = spec.fusion.merge(answers["dwi"], answers["flair"])
    again = answers_of(predictor.engine, replace(dwi, pixels=with_noise(dwi.pixels)))
    truth = dwi.masks > 0.5
    engine = predictor.engine.describe()
    return {
        "engine": f"{engine.backend} {engine.precision}",
        "volumes": [evaluate_volume(predictor, data, case) for case in VALIDATION_VOLUMES],
        "patients": len(dwi),
        "slices": {
            name: _slice_summary(spec.mask.apply(answer), truth) for name, answer in answers.items()
        },
        "steadiness": steadiness(spec.mask.apply(answers["dwi"]), spec.mask.apply(again)),
    }


def evaluate_volume(predictor: Predictor, data: Path, case: str) -> dict[str, Any]:
    """Measure one volume, with the Dice of each slice where either mask has lesion."""
    image, mask = volume_paths(data, case)
    result = predictor.predict(image)
    predicted, truth = result.mask.data > 0, load_volume(mask).data > 0.5
    voxel_ml = result.mask.grid.voxel_ml
    slices = {
        str(z): round(dice(predicted[:, :, z], truth[:, :, z]), 4)
        for z in np.flatnonzero((predicted | truth).any(axis=(0, 1)))
    }
    lesion = np.flatnonzero(truth.any(axis=(0, 1)))
    adc = load_volume(image.with_name(f"{case}_adc.nii.gz")).data
    kept, _ = restricted(predicted, adc, result.brain.data > 0, bounds_of(predictor))
    return {
        "case": case,
        "truth_ml": float(truth.sum() * voxel_ml),
        "mask_ml": result.mask.volume_ml,
        "dice": dice(predicted, truth),
        "lesion_f1": lesion_f1(predicted, truth),
        "dice_with_adc": dice(kept, truth),
        "lesion_f1_with_adc": lesion_f1(kept, truth),
        "volume_difference_ml": float(abs(int(predicted.sum()) - int(truth.sum())) * voxel_ml),
        "slice_dice_mean": float(np.mean([slices[str(z)] for z in lesion])),
        "slice_dice": slices,
    }


def lesion_f1(predicted: BoolArray, truth: BoolArray) -> float:
    """F1 of lesions (26 neighbours), a lesion being found where the masks share a voxel.

    As in the ISLES'22 challenge: expert lesions touched by the prediction are
    true positives, those untouched false negatives, and predicted lesions that
    touch none false positives.
    """
    import cc3d

    expert, model = (cc3d.connected_components(m, connectivity=26) for m in (truth, predicted))
    found = len(set(np.unique(expert[predicted])) - {0})
    missed = int(expert.max()) - found
    extra = int(model.max()) - len(set(np.unique(model[truth])) - {0})
    total = 2 * found + missed + extra
    return 2 * found / total if total else 1.0


def compare_fusions(predictor: Predictor, data: Path) -> dict[str, dict[str, float]]:
    """Slice Dice of every fusion rule and threshold on the validation patients, the best first."""
    dwi, flair = load_validation_slices(data, predictor.bundle.spec.slices)
    a, b = answers_of(predictor.engine, dwi), answers_of(predictor.engine, flair)
    truth = dwi.masks > 0.5
    merged = {
        f"{rule} {weight}": FusionSpec(rule, weight).merge(a, b)
        for rule in FUSION_RULES
        for weight in (_WEIGHTS if rule in ("mean", "geometric") else (1.0,))
    }
    table = {
        f"{name} at {threshold}": _slice_summary(MaskSpec(threshold, 0.0).apply(answer), truth)
        for name, answer in {**merged, "flair": b}.items()
        for threshold in _THRESHOLDS
    }
    return dict(sorted(table.items(), key=lambda item: -item[1]["mean"]))


def answers_of(engine: Engine, images: Images) -> FloatArray:
    """Probabilities (N, H, W) that an engine gives for images."""
    return run_all(engine, images.pixels[:, None])[:, 0]


def _slice_summary(predicted: BoolArray, truth: BoolArray) -> dict[str, float]:
    each = [dice(a, b) for a, b in zip(predicted, truth, strict=True)]
    return {
        "mean": float(np.mean(each)),
        "median": float(np.median(each)),
        "pooled": dice(predicted, truth),
    }
