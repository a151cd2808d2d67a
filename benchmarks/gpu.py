"""The backends on a GPU: how long they take to start, and how fast they are then."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine, phantom_slices
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.engines import NVIDIA, probe
from cnnres_infer.engines.base import Engine, Probe, run_all
from cnnres_infer.engines.nvidia.device import find_gpu
from cnnres_infer.errors import BackendUnavailableError, EngineError
from cnnres_infer.host import cache
from cnnres_infer.selection.offers import offers, open_engine
from cnnres_infer.verification.agreement import GATES, Agreement, load_reference
from export.timing import median_seconds

# One batch of the largest images, and all slices of a brain as they are cut.
BATCH, VOLUME = "one batch", "60 slices"


def gpu(folder: Path | None, runs: int) -> dict[str, Any]:
    """Measure every backend and precision on the GPU of this machine.

    Each starts twice with a cache of its own: first with an empty one, so that
    engines are built, then with what the first start has left.

    Parameters
    ----------
    folder
        The bundle; by default the built-in one.
    runs
        Runs; the figures are medians.

    Returns
    -------
    dict
        ``machine`` and ``gpu``. In ``rows``, for each backend and precision:
        seconds of the first and the next start, milliseconds of one batch and of
        60 slices, slices per second, and the agreement with PyTorch. One that
        cannot be used has a ``reason`` instead.

    Raises
    ------
    BackendUnavailableError
        If there is no GPU.
    """
    found = find_gpu()
    if isinstance(found, Probe):
        remedy = "run it on a machine with an NVIDIA GPU" if found.absent else found.remedy
        raise BackendUnavailableError(f"no GPU to measure: {found.reason}", remedy)
    bundle = Bundle.open(folder)
    images = phantom_slices(bundle)
    rows = {name: row for each in NVIDIA for name, row in _backend(bundle, each, images, runs)}
    return {"machine": machine(), "gpu": f"{found}, driver {found.driver}", "rows": rows}


def _backend(
    bundle: Bundle, name: str, images: FloatArray, runs: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Titles and rows of a backend, one for each precision if it can be used."""
    try:
        probe(name).require()
    except BackendUnavailableError as error:
        yield name, {"reason": str(error)}
        return
    for precision in offers(bundle, name):
        with _empty_cache():
            try:
                row = _measured(bundle, name, precision, images, runs)
            except EngineError as error:
                row = {"reason": str(error)}
        yield f"{name} {precision}", row


def _measured(
    bundle: Bundle, name: str, precision: str, images: FloatArray, runs: int
) -> dict[str, Any]:
    starts = []
    for _ in range(2):
        started = time.perf_counter()
        with open_engine(bundle, name, precision) as engine:
            starts.append(time.perf_counter() - started)
            row = _run(engine, images, runs)
    reference_images, reference = load_reference(bundle)
    with open_engine(bundle, name, precision) as engine:
        agreement = Agreement.of(run_all(engine, reference_images), reference, bundle.spec.mask)
        info = engine.describe()
    first, following = starts
    return {
        "first_start_s": first,
        "next_start_s": following,
        **row,
        "dice_mean": agreement.mean,
        "largest_difference": agreement.largest_difference,
        "passes": agreement.passes(GATES[info.precision]),
        "versions": info.versions,
    }


def _run(engine: Engine, images: FloatArray, runs: int) -> dict[str, float]:
    full = np.resize(images, (engine.BATCH, *images.shape[1:]))
    cases = {BATCH: lambda: engine.run(full), VOLUME: lambda: run_all(engine, images)}
    seconds = median_seconds(cases, runs)
    milliseconds = {f"{name} ms": 1e3 * spent for name, spent in seconds.items()}
    return {**milliseconds, "slices_per_s": len(images) / seconds[VOLUME]}


@contextmanager
def _empty_cache() -> Iterator[None]:
    """Let engines use a cache that is empty at first, and gone in the end."""
    before = os.environ.get(cache.FOLDER)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[cache.FOLDER] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[cache.FOLDER]
            else:
                os.environ[cache.FOLDER] = before
