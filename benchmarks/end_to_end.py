"""Whole volumes: cold processes, warm `predict`, the network alone, and PyTorch eager."""

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnres_infer.brain import find_brain
from cnnres_infer.bundle import Bundle
from cnnres_infer.choice import Choice
from cnnres_infer.engines import Engine
from cnnres_infer.machine import processor, usable_cores, versions
from cnnres_infer.phantom import make_phantom
from cnnres_infer.predictor import Predictor
from cnnres_infer.slices import SliceGeometry, to_batches
from cnnres_infer.volume import Volume, load_volume, save_volume
from export.timing import interleaved
from export.volume_outputs import torch_engine

SHAPE = (112, 112, 73)
TORCH_PIPELINE = "torch-pipeline"


def measure(folder: Path | None, runs: int) -> dict[str, Any]:
    """Measure everything in one go, the rounds interleaved.

    Parameters
    ----------
    folder
        The bundle; by default the one that is built in.
    runs
        Rounds; the figures are medians over them.

    Returns
    -------
    dict
        Seconds, and MB (10^6 bytes) of largest resident memory.
    """
    bundle = Bundle.open(folder)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "volume.nii.gz"
        phantom = make_phantom(shape=SHAPE)
        save_volume(path, phantom.volume.data, phantom.volume.grid)
        volume = load_volume(path)
        cores = usable_cores()
        with (
            Predictor.load(bundle.folder, "ort", "fp32") as ours,
            Predictor(bundle, Choice(torch_engine(bundle))) as eager,
        ):
            cases: dict[str, Callable[[], object]] = {
                "network, ONNX Runtime fp32": _network(ours.engine, volume, bundle),
                "network, PyTorch eager": _network(eager.engine, volume, bundle),
                "predict, ONNX Runtime fp32": lambda: ours.predict(path),
                "predict, PyTorch eager": lambda: eager.predict(path),
            }
            seconds = interleaved(cases, runs)
            stages = ours.predict(path).timings
        engine = ["--backend", "ort", "--precision", "fp32"]
        ours_cold = ["-m", "cnnres_infer.cli", "predict", *engine]
        cold = {
            "process, ONNX Runtime fp32": [*ours_cold, str(path)],
            "process, PyTorch eager": ["-m", "benchmarks", TORCH_PIPELINE, str(path)],
        }
        processes = {name: _cold(arguments, bundle, runs) for name, arguments in cold.items()}
    warm = {name: {"seconds": statistics.median(each)} for name, each in seconds.items()}
    return {
        "machine": f"{platform.machine()}, {cores} cores, {processor()}",
        "versions": versions("onnxruntime", "torch", "numpy"),
        "shape": SHAPE,
        "runs": runs,
        "cases": warm | processes,
        "stages": stages,
    }


def run_torch_pipeline(path: Path, folder: Path | None, out: Path) -> None:
    """The same way from a file to its outputs, with PyTorch eager inside."""
    bundle = Bundle.open(folder)
    with Predictor(bundle, Choice(torch_engine(bundle))) as predictor:
        predictor.predict(path).save(out)


def _network(engine: Engine, volume: Volume, bundle: Bundle) -> Callable[[], object]:
    """The engine's work for a volume, its batches made beforehand."""
    spec = bundle.spec.slices
    brain = find_brain(volume).mask
    geometry = SliceGeometry.of(volume.grid, brain, spec)
    batches = [b.images for b in to_batches((volume,), brain, geometry, spec, engine.BATCH)]
    return lambda: [engine.run(images) for images in batches]


def _cold(arguments: list[str], bundle: Bundle, runs: int) -> dict[str, Any]:
    """Median seconds and largest memory of a process of its own, and how it was self-checked."""
    seconds, memory, checks = [], [], set()
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as out:
            command = [*arguments, "--bundle", str(bundle.folder), "--out", out]
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - started)
            (path,) = Path(out).glob("*_report.json")
            report = json.loads(path.read_text())
            memory.append(report["peak_memory_mb"])
            checks.add(_self_check(report["verification"]))
    return {
        "seconds": statistics.median(seconds),
        "peak_mb": max(memory),
        "self_check": " or ".join(sorted(checks)),
    }


def _self_check(verification: dict[str, Any]) -> str:
    if "skipped" in verification:
        return "none"
    return "cached" if verification["cached"] else "made in the run"
