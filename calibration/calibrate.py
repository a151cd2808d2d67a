"""From a bundle with float variants to one with INT8 variants that pass the gate."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from calibration.closeness import Closeness
from calibration.data import Case, Split, load_split
from calibration.distil import Distiller, training_images
from calibration.finetune import Tuning
from calibration.judge import LARGEST_DROP, Judge, Verdict
from calibration.plan import SCHEMES
from calibration.selection import choose_slices, slice_hashes
from calibration.sensitivity import Layer
from calibration.trials import Search, Trial
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.engines.base import run_all
from cnnres_infer.errors import BackendUnavailableError, OutputExistsError, UsageError
from cnnres_infer.verification.agreement import GATES
from export.bundle_writer import seal
from export.volume_outputs import torch_engine
from training.evaluate import precise_engine

RECORD = "calibration.json"
_SIXTEEN_BITS = {
    Precision.FP16: "weights and images in float16, PyTorch",
    Precision.BF16: "weights and images in bfloat16, OpenVINO",
}


@dataclass(frozen=True)
class Calibration:
    """How to calibrate.

    Attributes
    ----------
    slices
        How many slices to calibrate with.
    variants
        INT8 variants to make.
    tuning
        The fine-tuning, None for none.
    device
        What PyTorch fine-tunes on.
    """

    slices: int
    seed: int
    variants: tuple[str, ...]
    tuning: Tuning | None
    device: str


@dataclass(frozen=True)
class Outcome:
    """What became of a variant.

    Attributes
    ----------
    tried
        What was done to get it.
    misses
        Where it falls short of the gate; an INT8 variant is written only if nowhere.
    elsewhere
        How an INT8 variant does in OpenVINO, if it was judged there as well.
    """

    variant: str
    tried: str
    verdict: Verdict
    misses: tuple[str, ...]
    elsewhere: Verdict | None = None
    trials: tuple[Trial, ...] = ()
    layers: tuple[Layer, ...] = ()
    content: bytes = b""

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "tried": self.tried,
            "passed": not self.misses,
            "misses": list(self.misses),
            **self.verdict.to_json(),
            "openvino": self.elsewhere and self.elsewhere.to_json(),
        }


def calibrate(
    folder: Path,
    data: Path,
    calibration: Calibration,
    overwrite: bool,
    report: Callable[[Trial], None],
) -> list[Outcome]:
    """Make the INT8 variants of a bundle, and judge them and the 16-bit precisions.

    INT8 variants that pass the gate are written into the bundle, with
    ``calibration.json``: which slices were used, all that was tried, and how
    sensitive the layers are. What fails is not written, and with `overwrite`
    taken out of the bundle if it was there, float16 included.

    Raises
    ------
    UsageError
        If a variant is unknown, or `data` holds too little.
    OutputExistsError
        If the bundle has an INT8 variant and `overwrite` is False.
    """
    unknown = set(calibration.variants) - set(SCHEMES)
    if unknown:
        raise UsageError(f"no variant {', '.join(unknown)}; choose from {', '.join(SCHEMES)}")
    bundle = Bundle.open(folder)
    standing = [name for name in calibration.variants if name in bundle.variants]
    if standing and not overwrite:
        raise OutputExistsError(folder / bundle.variants[standing[0]])
    split = load_split(data, bundle.spec, calibration.seed)
    with torch_engine(bundle) as engine:
        compute = partial(run_all, engine)
        outputs = [compute(case.images) for case in split.calibration]
        judge = Judge(split.gate, bundle.spec, compute)
    every, expected = np.concatenate([c.images for c in split.calibration]), np.concatenate(outputs)
    images = _chosen(split.calibration, every, expected, bundle.spec, calibration)
    outcomes = list(_rounded(bundle, judge))
    search = Search(
        onnx.load_from_string(bundle.model("fp32")),
        images,
        Closeness(every, expected, bundle.spec.mask.threshold),
        judge,
        GATES["int8"],
        _distiller(bundle, data, images, calibration),
    )
    for name in calibration.variants:
        found = search.run(SCHEMES[name], report)
        best = found.best
        outcomes.append(
            Outcome(
                name,
                best.candidate.name,
                best.verdict,
                best.misses(search.gate),
                best.elsewhere,
                found.trials,
                found.layers,
                best.candidate.onnx,
            )
        )
    _write(bundle, outcomes, images, split, calibration, overwrite)
    return outcomes


def _chosen(
    cases: tuple[Case, ...],
    images: FloatArray,
    outputs: FloatArray,
    spec: ModelSpec,
    calibration: Calibration,
) -> FloatArray:
    """The slices to calibrate with, by what PyTorch finds in them."""
    lesions = spec.mask.apply(outputs)
    positions = np.concatenate([case.positions for case in cases])
    chosen = choose_slices(
        images, positions, lesions.sum(axis=(1, 2, 3)), calibration.slices, calibration.seed
    )
    return images[chosen]


def _rounded(bundle: Bundle, judge: Judge) -> Iterator[Outcome]:
    """Judge the 16-bit precisions that this machine can really compute."""
    for precision, tried in _SIXTEEN_BITS.items():
        if precision is Precision.FP16 and precision not in bundle.variants:
            continue
        try:
            engine = precise_engine(bundle, precision)
        except BackendUnavailableError:
            continue
        with engine:
            verdict = judge(partial(run_all, engine))
        yield Outcome(precision, tried, verdict, verdict.misses(GATES[precision]))


def _distiller(
    bundle: Bundle, data: Path, images: FloatArray, calibration: Calibration
) -> Distiller | None:
    if calibration.tuning is None:
        return None
    device = torch.device(calibration.device)
    return Distiller(
        onnx.load_from_string(bundle.model("fp32")),
        training_images(data, images, calibration.seed, device),
        calibration.tuning,
        device,
    )


def _write(
    bundle: Bundle,
    outcomes: list[Outcome],
    images: FloatArray,
    split: Split,
    calibration: Calibration,
    overwrite: bool,
) -> None:
    """Put into the bundle what passed, the record of all, and new seals."""
    variants = dict(bundle.variants)
    files: dict[str, bytes] = {}
    for outcome in outcomes:
        name = f"model.{outcome.variant}.onnx"
        if outcome.misses and overwrite:
            variants.pop(outcome.variant, None)
        elif outcome.content and not outcome.misses:
            variants[outcome.variant] = name
            files[name] = outcome.content
    record = {
        "seed": calibration.seed,
        "tuning": asdict(calibration.tuning) if calibration.tuning else None,
        "slices_sha256": slice_hashes(images),
        "cases": {"calibration": len(split.calibration), "gate": len(split.gate)},
        "gates": {name: asdict(GATES[name]) for name in ("fp16", "bf16", "int8")},
        "largest_drop": LARGEST_DROP,
        "passes": {name: list(SCHEMES[name].passes) for name in calibration.variants},
        "variants": {outcome.variant: outcome.to_json() for outcome in outcomes},
        "trials": [trial.to_json() for outcome in outcomes for trial in outcome.trials],
        "layers": {o.variant: [layer.to_json() for layer in o.layers] for o in outcomes},
    }
    files[RECORD] = (json.dumps(record, indent=1) + "\n").encode()
    gone = set(bundle.variants.values()) - set(variants.values())
    kept = ("slices_sha256", "trials", "layers")
    summary = {key: value for key, value in record.items() if key not in kept}
    manifest = {**bundle.manifest, "variants": variants, "calibration": summary}
    seal(bundle.folder, manifest, files, gone)
