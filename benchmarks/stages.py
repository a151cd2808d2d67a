"""Time of each stage of a warm `predict` but the network's, for which a stub answers or waits."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import machine, save_phantom
from benchmarks.stub import StubEngine
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.host.machine import versions
from cnnres_infer.predictor import Predictor
from cnnres_infer.selection.select import Selection

# Number of voxels, and their spacing in mm.
GRIDS = (((112, 112, 73), (2.0, 2.0, 2.0)), ((256, 256, 60), (0.9, 0.9, 2.5)))
FLAIR_GRID = ((230, 230, 36), (1.0, 1.0, 4.5))

CLOCK, PROCESSOR = KINDS = ("clock_ms", "processor_ms")
ENGINE, OTHER_THREADS = "engine", "other threads"
ALL_BUT_ENGINE, SAVE = "all but the engine", "save"

_Times: TypeAlias = dict[str, dict[str, float]]


def stages(
    folder: Path | None,
    runs: int,
    files: Sequence[Path],
    *,
    flair: bool,
    slice_ms: float = 0.0,
) -> dict[str, Any]:
    """Measure `predict` with an engine that leaves the processor alone.

    Parameters
    ----------
    folder
        The bundle whose specification is followed; by default the built-in one.
    runs
        Runs of each volume; every figure is the least of them, so that other
        programs count as little as possible.
    files
        The volumes; by default synthetic heads on two grids, whole as a scanner
        gives them and stripped.
    flair
        Whether the synthetic heads have a FLAIR on another grid.
    slice_ms
        Milliseconds that the engine waits for each slice.

    Returns
    -------
    dict
        In ``volumes``, for each of them, what was found, and the milliseconds of
        each stage: by the clock, and of the processor on the caller's thread.
        That thread runs the engine and waits for another one, which cuts slices;
        what such threads need has a row of its own. So has what all stages but
        the engine take together, and saving the result.
    """
    with (
        Predictor(Bundle.open(folder), Selection(StubEngine(slice_ms))) as predictor,
        tempfile.TemporaryDirectory() as temporary,
    ):
        work = Path(temporary)
        cases: Iterable[tuple[str, dict[str, Path]]]
        cases = [(path.name, {"source": path}) for path in files] or _phantoms(work, flair=flair)
        volumes = {
            name: _measure(predictor, volumes, runs, work / "out") for name, volumes in cases
        }
    return {
        "machine": machine(),
        "versions": versions("numpy", "connected-components-3d"),
        "runs": runs,
        "volumes": volumes,
    }


def _phantoms(folder: Path, *, flair: bool) -> Iterator[tuple[str, dict[str, Path]]]:
    """Synthetic heads in files, as arguments of `predict`."""
    for shape, spacing in GRIDS:
        for kind in ("whole head", "stripped"):
            skull = kind != "stripped"
            volumes = {"source": folder / "dwi.nii.gz"}
            save_phantom(volumes["source"], shape, spacing, skull=skull)
            if flair:
                volumes["flair"] = folder / "flair.nii.gz"
                save_phantom(volumes["flair"], *FLAIR_GRID, modality="flair", skull=skull)
            yield f"{' x '.join(map(str, shape))}, {kind}", volumes


def _measure(
    predictor: Predictor, volumes: dict[str, Path], runs: int, out: Path
) -> dict[str, Any]:
    """Least times of several runs, after one that does not count."""
    _, found = _run(predictor, volumes, out)
    measured = [_run(predictor, volumes, out)[0] for _ in range(runs)]
    least = {
        stage: {clock: min(each[stage][clock] for each in measured) for clock in times}
        for stage, times in measured[0].items()
    }
    return {"found": found, "stages": least}


def _run(predictor: Predictor, volumes: dict[str, Path], out: Path) -> tuple[_Times, str]:
    """Times of one run, and what was found."""
    begun: dict[str, float] = {}
    ended: dict[str, float] = {}

    def progress(stage: str, done: int, _total: int) -> None:
        (ended if done else begun)[stage] = thread_time()

    started = _now()
    result = predictor.predict(volumes["source"], flair=volumes.get("flair"), progress=progress)
    predicted = _now()
    result.save(out, overwrite=True)
    clock, everything, own = (predicted - started).tolist()
    saving, saving_everything, _ = (_now() - predicted).tolist()

    seconds = {
        stage: (spent, ended.get(stage, 0.0) - begun.get(stage, 0.0))
        for stage, spent in result.timings.items()
    }
    engine, engine_processor = seconds[ENGINE]
    seconds |= {
        OTHER_THREADS: (0.0, everything - own),
        ALL_BUT_ENGINE: (clock - engine, everything - engine_processor),
        SAVE: (saving, saving_everything),
    }
    times = {
        stage: {CLOCK: 1000 * clock, PROCESSOR: 1000 * processor}
        for stage, (clock, processor) in seconds.items()
    }
    return times, f"{len(result.lesions)} lesions of {result.mask.volume_ml:.1f} ml"


def _now() -> NDArray[np.float64]:
    """Seconds by the clock, of the processor on all threads, and of it on this one."""
    return np.array([perf_counter(), process_time(), thread_time()])
