"""Whole volumes: cold processes, warm `predict`, the network alone, and PyTorch eager."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import SHAPE, machine, save_phantom
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.case import Case
from cnnres_infer.engines import BACKENDS, NVIDIA
from cnnres_infer.engines.base import Engine
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.host.machine import versions
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.prepare import prepare
from cnnres_infer.pipeline.slices.batches import to_batches
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers.case import read_case
from cnnres_infer.selection.offers import offers
from cnnres_infer.selection.select import Selection
from export.timing import median_seconds
from export.volume_outputs import torch_engine

EAGER = "PyTorch eager"
NETWORK, PREDICT, PROCESS = TIMES = ("network alone", "warm predict", "cold process")
TORCH_PIPELINE = "torch-pipeline"


def measure(folder: Path | None, runs: int) -> dict[str, Any]:
    """Measure every CPU engine, and PyTorch eager on whole slices, in interleaved rounds.

    Parameters
    ----------
    folder
        The bundle; by default the built-in one.
    runs
        Rounds; the figures are medians over them.

    Returns
    -------
    dict
        In ``rows``, for each engine: seconds for the network alone, for a warm
        `predict`, and for a process of its own that writes its outputs; the peak
        resident memory of that process in MB (10^6 bytes); and the seconds for
        each stage of `predict`. An engine that cannot be used has a ``reason``
        instead.
    """
    bundle = Bundle.open(folder)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as opened:
        path = Path(temporary) / "volume.nii.gz"
        save_phantom(path, SHAPE)
        whole = _whole_slices(bundle)
        eager = Predictor(whole, Selection(torch_engine(whole)))
        predictors = {EAGER: opened.enter_context(eager)}
        commands = {EAGER: ["-m", "benchmarks", TORCH_PIPELINE, str(path)]}
        for name, precision in _engines(bundle):
            try:
                predictor = Predictor.load(bundle.folder, name, precision)
            except BackendUnavailableError as error:
                rows[f"{name} {precision}"] = {"reason": str(error)}
                continue
            predictors[f"{name} {precision}"] = opened.enter_context(predictor)
            options = ["--backend", name, "--precision", precision, str(path)]
            commands[f"{name} {precision}"] = ["-m", "cnnres_infer", "predict", *options]
        warm = _warm(predictors, path, runs)
        cold = _cold(commands, bundle, runs)
    rows |= {name: {**warm[name], **cold[name]} for name in predictors}
    return {
        "machine": machine(),
        "versions": versions("onnxruntime", "openvino", "torch", "numpy"),
        "bundle_sha256": bundle.digest,
        "shape": SHAPE,
        "runs": runs,
        "rows": rows,
    }


def run_torch_pipeline(path: Path, folder: Path | None, out: Path) -> None:
    """Go the same way from a file to its outputs, but with PyTorch eager."""
    bundle = _whole_slices(Bundle.open(folder))
    with Predictor(bundle, Selection(torch_engine(bundle))) as predictor:
        predictor.predict(path).save(out)


def _whole_slices(bundle: Bundle) -> Bundle:
    """A bundle that does not cut slices to the brain, as PyTorch users run the network."""
    return replace(
        bundle, spec=replace(bundle.spec, slices=replace(bundle.spec.slices, frame="whole"))
    )


def _engines(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """The CPU backends, each with every precision that it offers for the bundle."""
    for name in BACKENDS:
        if name not in NVIDIA:
            yield from ((name, precision) for precision in offers(bundle, name))


def _warm(predictors: dict[str, Predictor], path: Path, runs: int) -> dict[str, dict[str, Any]]:
    """Median seconds for the network alone and for `predict`, and those of its stages."""
    case = read_case(path)
    cases: dict[str, Callable[[], object]] = {}
    for name, each in predictors.items():
        cases[f"{NETWORK}, {name}"] = _network(each.engine, case, each.bundle)
        cases[f"{PREDICT}, {name}"] = partial(each.predict, path)
    seconds = median_seconds(cases, runs)
    return {
        name: {
            **{what: seconds[f"{what}, {name}"] for what in (NETWORK, PREDICT)},
            "stages": each.predict(path).timings,
        }
        for name, each in predictors.items()
    }


def _network(engine: Engine, case: Case, bundle: Bundle) -> Callable[[], object]:
    """The engine's work for a case, on batches that are made beforehand."""
    spec = bundle.spec
    ready = prepare(case, spec, Stopwatch())
    slices = spec.slices.of(case.modality)
    batches = to_batches(ready.volumes, ready.brain.mask, ready.geometry, slices, engine.BATCH)
    images = [batch.images for batch in batches]
    return lambda: [engine.run(each) for each in images]


def _cold(commands: dict[str, list[str]], bundle: Bundle, runs: int) -> dict[str, dict[str, Any]]:
    """Median seconds, peak memory and self-check of commands, each in a process of its own.

    The warm-up round, which may compile and check engines, is not counted.
    """
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}

    def run(name: str) -> None:
        reports[name].append(_process(commands[name], bundle))

    seconds = median_seconds({name: partial(run, name) for name in commands}, runs)
    return {
        name: {
            PROCESS: seconds[name],
            "peak_mb": max(report["peak_memory_mb"] for report in counted),
            "self_check": " or ".join(sorted({_self_check(r["verification"]) for r in counted})),
        }
        for name, (_, *counted) in reports.items()
    }


def _process(arguments: list[str], bundle: Bundle) -> dict[str, Any]:
    """Run a command that writes outputs, and return its report."""
    # Modules are compiled once, as those of an installed package are.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as out:
        command = [*arguments, "--bundle", str(bundle.folder), "--out", out]
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=env)
        (path,) = Path(out).glob("*_report.json")
        report: dict[str, Any] = json.loads(path.read_text())
    return report


def _self_check(verification: dict[str, Any]) -> str:
    if "skipped" in verification:
        return "none"
    return "cached" if verification["cached"] else "made in the run"
