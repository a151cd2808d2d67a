"""Time and memory of a whole volume against its slices, its in-plane size, and the threads."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from cnnres_infer.machine import peak_memory_mb, usable_cores
from cnnres_infer.phantom import make_phantom
from cnnres_infer.predictor import Predictor
from cnnres_infer.volume import Volume, volume_from_array

ONE = "one-size"
SLICES = (10, 30, 100, 300, 1000)
SIZES = (112, 256, 512)
_SHAPE = (112, 112, 73)
_FIELD_MM = 224.0


def scale(folder: Path | None, backend: str, precision: str, runs: int) -> dict[str, Any]:
    """Measure `predict` in processes of their own, one quantity changing at a time.

    Returns
    -------
    dict
        Tables of rows: what changes, seconds, MB (10^6 bytes) of the volume in
        float32 and of largest resident memory.
    """
    options = [] if folder is None else ["--bundle", str(folder)]
    options += ["--backend", backend, "--precision", precision, "--runs", str(runs)]

    def row(slices: int, size: int, threads: int) -> dict[str, Any]:
        shape = ["--slices", str(slices), "--size", str(size), "--threads", str(threads)]
        command = [sys.executable, "-m", "benchmarks", ONE, *options, *shape]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        figures: dict[str, Any] = json.loads(done.stdout)
        return {"slices": slices, "size": size, "threads": threads, **figures}

    cores = usable_cores()
    return {
        "backend": backend,
        "precision": precision,
        "cores": cores,
        "tables": {
            "slices": [row(slices, _SHAPE[0], cores) for slices in SLICES],
            "in-plane size": [row(_SHAPE[2], size, cores) for size in SIZES],
            "threads": [row(_SHAPE[2], _SHAPE[0], n) for n in range(1, cores + 1)],
            "the largest": [row(300, 512, cores)],
        },
    }


def run_one(
    folder: Path | None,
    backend: str,
    precision: str,
    slices: int,
    size: int,
    threads: int,
    runs: int,
) -> dict[str, Any]:
    """Segment one volume several times; figures of this process."""
    volume = _volume(slices, size)
    before = peak_memory_mb()
    seconds = []
    with Predictor.load(folder, backend, precision, threads) as predictor:
        for _ in range(runs + 1):
            started = time.perf_counter()
            result = predictor.predict(volume)
            seconds.append(time.perf_counter() - started)
    return {
        "seconds": statistics.median(seconds[1:]),
        "volume_mb": volume.data.nbytes / 1e6,
        "peak_mb_before": before,
        "peak_mb": peak_memory_mb(),
        "lesion_ml": result.mask.volume_ml,
    }


def _volume(slices: int, size: int) -> Volume:
    """A synthetic brain, its slices and pixels repeated to the shape that is wanted."""
    small = make_phantom(shape=_SHAPE).volume
    columns = np.arange(size) * _SHAPE[0] // size
    rows = np.arange(size) * _SHAPE[1] // size
    middle = np.arange(slices) * _SHAPE[2] // slices
    data = small.data[columns][:, rows][:, :, middle]
    step = _FIELD_MM / size
    affine = np.diag([-step, step, 2.0 * _SHAPE[2] / slices, 1.0])
    return volume_from_array(data, affine, "phantom")
