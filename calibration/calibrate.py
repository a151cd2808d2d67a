"""From a bundle with float variants to one with INT8 variants that pass the accuracy gate."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calibration.data import Split, load_split
from calibration.judge import LARGEST_DROP, Judge, Verdict
from calibration.logit_error import LogitError
from calibration.plan import INT8_TRT, SCHEMES, Scheme, WeightScales
from calibration.selection import choose_slices, slice_hashes
from calibration.sensitivity import LayerSensitivity
from calibration.trials import Search, Trial
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import run_all
from cnnres_infer.errors import BackendUnavailableError, OutputExistsError, UsageError
from cnnres_infer.verification.agreement import GATES
from export.bundle_writer import seal
from export.volume_outputs import torch_engine
from training.evaluate import precise_engine

RECORD = "calibration.json"
_SIXTEEN_BITS = {
    Precision.FP16: "weights and activations in float16",
    Precision.BF16: "weights and activations in bfloat16",
}


@dataclass(frozen=True)
class Calibration:
    """How to calibrate.

    Attributes
    ----------
    slices
        How many slices to calibrate with.
    seed
        Of the split, of the selection of slices and of the estimate of derivatives.
    variants
        INT8 variants to make.
    weight_scales
        How the scales of weights are stored in the variant for GPUs.
    """

    slices: int
    seed: int
    variants: tuple[str, ...]
    weight_scales: WeightScales = INT8_TRT.weight_scales

    def scheme(self, variant: str) -> Scheme:
        """How a variant is quantised."""
        scheme = SCHEMES[variant]
        return replace(scheme, weight_scales=self.weight_scales) if scheme.half else scheme


@dataclass(frozen=True)
class Outcome:
    """How a variant did.

    Attributes
    ----------
    variant
        Its name in the bundle.
    tried
        How it was made.
    engine
        The backend that computed it, or ``"torch"``.
    verdict
        On the gate's patients.
    misses
        Where it misses the gate; an INT8 variant is written only if nowhere.
    share_in_int8
        Share of an INT8 variant's multiply-adds that are computed in INT8.
    openvino
        The verdict on an INT8 variant in OpenVINO, if it was judged there too.
    trials
        All trials for it.
    layers
        Sensitivity of its layers.
    content
        The ONNX file of an INT8 variant.
    """

    variant: str
    tried: str
    engine: str
    verdict: Verdict
    misses: tuple[str, ...]
    share_in_int8: float = 0.0
    openvino: Verdict | None = None
    trials: tuple[Trial, ...] = ()
    layers: tuple[LayerSensitivity, ...] = ()
    content: bytes = b""

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "tried": self.tried,
            "engine": self.engine,
            "passed": not self.misses,
            "misses": list(self.misses),
            **({"share_in_int8": self.share_in_int8} if self.content else {}),
            **self.verdict.to_json(),
            "openvino": self.openvino and self.openvino.to_json(),
        }


def calibrate(
    folder: Path,
    data: Path,
    calibration: Calibration,
    overwrite: bool,
    report: Callable[[Trial], None],
) -> list[Outcome]:
    """Make the INT8 variants of a bundle, and judge them and the 16-bit precisions.

    INT8 variants that pass the gate are written into the bundle, together with
    ``calibration.json``: the slices used, everything that was tried, and the
    sensitivity of the layers. Variants that fail are not written. With
    `overwrite`, they are also removed from the bundle, float16 included. What an
    earlier calibration says of other variants stays.

    Raises
    ------
    UsageError
        If a variant is unknown, or `data` holds too little.
    OutputExistsError
        If the bundle has one of the INT8 variants and `overwrite` is False.
    """
    unknown = set(calibration.variants) - set(SCHEMES)
    if unknown:
        raise UsageError(f"no variant {', '.join(unknown)}; choose from {', '.join(SCHEMES)}")
    bundle = Bundle.open(folder)
    existing = [name for name in calibration.variants if name in bundle.variants]
    if existing and not overwrite:
        raise OutputExistsError(folder / bundle.variants[existing[0]])
    split = load_split(data, bundle.spec, calibration.seed)
    with torch_engine(bundle) as engine:
        reference = partial(run_all, engine)
        outputs = np.concatenate([reference(scan.images) for scan in split.calibration])
        judge = Judge(split.gate, bundle.spec, reference)
    images = np.concatenate([scan.images for scan in split.calibration])
    chosen = _selected(split, images, outputs, bundle, calibration)
    search = Search(
        onnx.load_from_string(bundle.model("fp32")),
        chosen,
        bundle.spec.mask.threshold,
        LogitError(images, outputs, bundle.spec.mask.threshold),
        judge,
        GATES[Precision.INT8],
        calibration.seed,
        bundle.spec.slices.sides,
    )
    outcomes = [
        *_sixteen_bits(bundle, judge),
        *(_int8(calibration.scheme(name), search, report) for name in calibration.variants),
    ]
    _write(bundle, outcomes, chosen, split, calibration, overwrite)
    return outcomes


def _selected(
    split: Split, images: FloatArray, outputs: FloatArray, bundle: Bundle, calibration: Calibration
) -> FloatArray:
    """The slices to calibrate with, selected by position, brightness and PyTorch's lesions."""
    areas = bundle.spec.mask.apply(outputs).sum(axis=(1, 2, 3))
    positions = np.concatenate([scan.positions for scan in split.calibration])
    chosen = choose_slices(images, positions, areas, calibration.slices, calibration.seed)
    return images[chosen]


def _sixteen_bits(bundle: Bundle, judge: Judge) -> Iterator[Outcome]:
    """Judge float16, and bfloat16 if this machine computes it."""
    for precision, tried in _SIXTEEN_BITS.items():
        if precision is Precision.FP16 and precision not in bundle.variants:
            continue
        try:
            engine = precise_engine(bundle, precision)
        except BackendUnavailableError:
            continue
        with engine:
            verdict = judge(partial(run_all, engine))
            name = engine.describe().backend
        yield Outcome(precision, tried, name, verdict, verdict.misses(GATES[precision]))


def _int8(scheme: Scheme, search: Search, report: Callable[[Trial], None]) -> Outcome:
    """Search for an INT8 variant."""
    result = search.run(scheme, report)
    best = result.best
    return Outcome(
        scheme.variant,
        best.candidate.name,
        best.engine,
        best.verdict,
        best.misses(search.gate),
        best.candidate.share_in_int8,
        best.openvino,
        result.trials,
        result.layers,
        best.candidate.onnx,
    )


def _write(
    bundle: Bundle,
    outcomes: list[Outcome],
    images: FloatArray,
    split: Split,
    calibration: Calibration,
    overwrite: bool,
) -> None:
    """Write the variants that passed and the record into the bundle, and seal it again."""
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
        "slices_sha256": slice_hashes(images),
        "cases": {"calibration": len(split.calibration), "gate": len(split.gate)},
        "gates": {
            name: asdict(GATES[name]) for name in (Precision.FP16, Precision.BF16, Precision.INT8)
        },
        "largest_drop": LARGEST_DROP,
        "passes": {name: list(SCHEMES[name].passes) for name in calibration.variants},
        "judged": {
            "fp32": bundle.sha256[bundle.variants["fp32"]],
            "input": bundle.manifest["input"],
        },
        "weight_scales": {
            name: calibration.scheme(name).weight_scales for name in calibration.variants
        },
        "variants": {outcome.variant: outcome.to_json() for outcome in outcomes},
        "trials": [trial.to_json() for outcome in outcomes for trial in outcome.trials],
        "layers": {o.variant: [layer.to_json() for layer in o.layers] for o in outcomes},
    }
    _add_earlier(record, bundle, variants)
    files[RECORD] = (json.dumps(record, indent=1) + "\n").encode()
    removed = set(bundle.variants.values()) - set(variants.values())
    details = ("slices_sha256", "trials", "layers")
    summary = {key: value for key, value in record.items() if key not in details}
    manifest = {**bundle.manifest, "variants": variants, "calibration": summary}
    seal(bundle.folder, manifest, files, removed)


def _add_earlier(record: dict[str, Any], bundle: Bundle, variants: dict[str, str]) -> None:
    """Add what the bundle's record says of variants that it keeps, or that failed.

    A failure stays until it is judged again, even of what this machine cannot compute,
    such as bfloat16; a pass stays only while the network and its images are the same.
    """
    if RECORD not in bundle.sha256:
        return
    earlier = json.loads(bundle.read(RECORD))
    same = earlier.get("judged") == record["judged"]
    kept = {
        name: verdict
        for name, verdict in earlier["variants"].items()
        if name not in record["variants"] and (not verdict["passed"] or (same and name in variants))
    }
    record["earlier"] = sorted(kept)
    record["variants"] = {**kept, **record["variants"]}
    record["trials"] += [trial for trial in earlier["trials"] if trial["variant"] in kept]
    for key in ("passes", "weight_scales", "layers"):
        record[key] |= {n: each for n, each in earlier.get(key, {}).items() if n in kept}
