"""Whole volumes: cold processes, warm `predict`, the network alone, and PyTorch eager."""

import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.engines import BACKENDS, NVIDIA
from cnnres_infer.engines.base import Engine
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.host.machine import processor, usable_cores, versions
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.pipeline.brain import find_brain
from cnnres_infer.pipeline.slices.batches import to_batches
from cnnres_infer.pipeline.slices.geometry import SliceGeometry
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers import load_volume
from cnnres_infer.readers.nifti.write import save_volume
from cnnres_infer.selection.offers import offers
from cnnres_infer.selection.select import Selection
from export.timing import interleaved
from export.volume_outputs import torch_engine

SHAPE = (112, 112, 73)
EAGER = "PyTorch eager"
NETWORK, PREDICT, PROCESS = TIMES = ("network alone", "warm predict", "cold process")
TORCH_PIPELINE = "torch-pipeline"


def measure(folder: Path | None, runs: int) -> dict[str, Any]:
    """Measure every engine for CPUs and PyTorch eager in one go, the rounds interleaved.

    Parameters
    ----------
    folder
        The bundle; by default the one that is built in.
    runs
        Rounds; the figures are medians over them.

    Returns
    -------
    dict
        ``rows``: for each engine seconds of the network alone, of a warm
        `predict` and of a process of its own that writes its outputs, the
        largest resident memory of that in MB (10^6 bytes), and the seconds of
        each stage of the `predict`. What cannot be used has a ``reason`` instead.
    """
    bundle = Bundle.open(folder)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as opened:
        path = Path(temporary) / "volume.nii.gz"
        phantom = make_phantom(shape=SHAPE)
        save_volume(path, phantom.data, Grid(SHAPE, phantom.affine))
        volume = load_volume(path)
        rows: dict[str, dict[str, Any]] = {}
        eager = Predictor(bundle, Selection(torch_engine(bundle)))
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
        cases: dict[str, Callable[[], object]] = {}
        for name, each in predictors.items():
            cases[f"{NETWORK}, {name}"] = _network(each.engine, volume, bundle)
            cases[f"{PREDICT}, {name}"] = partial(each.predict, path)
        warm = {name: statistics.median(each) for name, each in interleaved(cases, runs).items()}
        stages = {name: each.predict(path).timings for name, each in predictors.items()}
        cold = _cold(commands, bundle, runs)
        for name in predictors:
            times = {what: warm[f"{what}, {name}"] for what in (NETWORK, PREDICT)}
            rows[name] = {**times, **cold[name], "stages": stages[name]}
    return {
        "machine": f"{platform.machine()}, {usable_cores()} cores, {processor()}",
        "versions": versions("onnxruntime", "openvino", "torch", "numpy"),
        "bundle_sha256": bundle.digest,
        "shape": SHAPE,
        "runs": runs,
        "rows": rows,
    }


def run_torch_pipeline(path: Path, folder: Path | None, out: Path) -> None:
    """The same way from a file to its outputs, with PyTorch eager inside."""
    bundle = Bundle.open(folder)
    with Predictor(bundle, Selection(torch_engine(bundle))) as predictor:
        predictor.predict(path).save(out)


def _engines(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Backends for CPUs with their offers."""
    for name in BACKENDS:
        if name not in NVIDIA:
            yield from ((name, precision) for precision in offers(bundle, name))


def _network(engine: Engine, volume: Volume, bundle: Bundle) -> Callable[[], object]:
    """The engine's work for a volume, its batches made beforehand."""
    spec = bundle.spec.slices
    brain = find_brain(volume).mask
    geometry = SliceGeometry.of(volume.grid, brain, spec)
    batches = [b.images for b in to_batches((volume,), brain, geometry, spec, engine.BATCH)]
    return lambda: [engine.run(images) for images in batches]


def _cold(commands: dict[str, list[str]], bundle: Bundle, runs: int) -> dict[str, dict[str, Any]]:
    """Median seconds and largest memory of processes of their own, and how they were self-checked.

    A first round, which may compile and check engines, does not count.
    """
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}

    def run(name: str) -> None:
        reports[name].append(_process(commands[name], bundle))

    seconds = interleaved({name: partial(run, name) for name in commands}, runs)
    return {
        name: {
            PROCESS: statistics.median(seconds[name]),
            "peak_mb": max(report["peak_memory_mb"] for report in found[1:]),
            "self_check": " or ".join(sorted({_self_check(r["verification"]) for r in found[1:]})),
        }
        for name, found in reports.items()
    }


def _process(arguments: list[str], bundle: Bundle) -> dict[str, Any]:
    """Run a command that writes outputs; returns its report."""
    with tempfile.TemporaryDirectory() as out:
        command = [*arguments, "--bundle", str(bundle.folder), "--out", out]
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        (path,) = Path(out).glob("*_report.json")
        report: dict[str, Any] = json.loads(path.read_text())
    return report


def _self_check(verification: dict[str, Any]) -> str:
    if "skipped" in verification:
        return "none"
    return "cached" if verification["cached"] else "made in the run"
