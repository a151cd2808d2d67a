"""Time and memory for a whole volume, by its slices, its in-plane size and the threads."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.common import SHAPE, machine
from cnnres_infer.core.grid import Grid
from cnnres_infer.host.machine import peak_memory_mb, usable_cores
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers.nifti.write import save_volume

SLICES = (10, 30, 100, 300, 1000)
SIZES = (112, 256, 512)
LARGEST = (300, 512)
_FIELD_MM = 224.0


def scale(folder: Path | None, backend: str, precision: str, runs: int) -> dict[str, Any]:
    """Measure `predict` in processes of their own, varying one quantity at a time.

    Returns
    -------
    dict
        ``tables`` of rows: slices, in-plane size and threads; seconds for
        `predict`; MB (10^6 bytes) of the volume in float32; and the peak resident
        memory in MB, which includes saving.
    """
    options = [] if folder is None else ["--bundle", str(folder)]
    options += ["--backend", backend, "--precision", precision, "--runs", str(runs)]

    def row(slices: int, size: int, threads: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "phantom.nii"
            _write(path, slices, size)
            command = [sys.executable, "-m", "benchmarks.scale", str(path), *options]
            command += ["--threads", str(threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        figures: dict[str, Any] = json.loads(done.stdout)
        return {"slices": slices, "size": size, "threads": threads, **figures}

    cores = usable_cores()
    return {
        "machine": machine(),
        "backend": backend,
        "precision": precision,
        "tables": {
            "slices": [row(slices, SHAPE[0], cores) for slices in SLICES],
            "in-plane size": [row(SHAPE[2], size, cores) for size in SIZES],
            "threads": [row(SHAPE[2], SHAPE[0], n) for n in range(1, cores + 1)],
            "the largest": [row(*LARGEST, cores)],
        },
    }


def measure_one(
    volume: Path,
    backend: Annotated[str, typer.Option()],
    precision: Annotated[str, typer.Option()],
    threads: Annotated[int, typer.Option()],
    runs: Annotated[int, typer.Option()],
    bundle: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Segment a file several times, save the result, and print the figures of this process.

    PyTorch must not be loaded here, so that the memory is the package's own.
    """
    seconds = []
    with Predictor.load(bundle, backend, precision, threads) as predictor:
        for _ in range(runs):
            started = perf_counter()
            predictor.predict(volume)
            seconds.append(perf_counter() - started)
        result = predictor.predict(volume)
        result.save(volume.parent / "out")
    figures = {
        "seconds": statistics.median(seconds),
        "volume_mb": result.volume.data.nbytes / 1e6,
        "peak_mb": peak_memory_mb(),
    }
    typer.echo(json.dumps(figures))


def _write(path: Path, slices: int, size: int) -> None:
    """Write a synthetic brain with slices and pixels repeated to the given numbers.

    Noise makes repeated voxels differ, as a parcellation's do not.
    """
    small = make_phantom(shape=SHAPE).data
    columns = np.arange(size) * SHAPE[0] // size
    rows = np.arange(size) * SHAPE[1] // size
    middle = np.arange(slices) * SHAPE[2] // slices
    data = small.astype(np.int16)[columns][:, rows][:, :, middle]
    noise = np.random.default_rng(0).integers(-4, 5, data.shape, np.int8)
    data += np.where(data > 4, noise, np.int8(0))
    step = _FIELD_MM / size
    affine = np.diag([-step, step, 2.0 * SHAPE[2] / slices, 1.0])
    save_volume(path, data, Grid((size, size, slices), affine))


if __name__ == "__main__":
    typer.run(measure_one)
