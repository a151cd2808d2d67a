"""Cases an hour: a loop over the command, one call, several processes, Dask; and their costs."""

import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import SHAPE, machine, save_phantom
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.cohort.derivative import read_sidecar
from cnnres_infer.cohort.find import find_cases
from cnnres_infer.cohort.plan import Plan
from cnnres_infer.cohort.run import rebuild
from cnnres_infer.cohort.segment import segment
from cnnres_infer.cohort.settings import Settings
from cnnres_infer.host.machine import resident_memory_mb

LOOP, ONE_CALL = "a loop over cnnres-infer", "one call with all volumes"
_WAYS = {
    "cohort, 1 process": ("--jobs", "1"),
    "cohort, 2 processes": ("--jobs", "2"),
    "cohort, Dask with 1 worker": ("--dask", "local", "--jobs", "1"),
    "cohort, Dask with 2 workers": ("--dask", "local", "--jobs", "2"),
}
# The caches of a process fill up while it segments its first cases.
_WARM_CASES = 20


def measure(folder: Path | None, cases: int, runs: int, options: list[str]) -> dict[str, Any]:
    """Measure the ways of segmenting a cohort, in interleaved rounds.

    Parameters
    ----------
    folder
        The bundle; by default the built-in one.
    cases, runs
        Number of volumes, and rounds; the figures are medians over the rounds.
    options
        Options of all commands, such as the backend.

    Returns
    -------
    dict
        ``ways`` and ``processor``: seconds for all volumes, and of processor time,
        which other programs disturb less, for each way; ``stages``: seconds for
        each stage of a case; ``bytes``: read and written for a case; and
        ``bookkeeping``: seconds for a case that is done already, and for its
        rows of the tables.
    """
    bundle = Bundle.open(folder)
    common = ["--bundle", str(bundle.folder), *options]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        raw = _write(root / "raw", cases)
        seconds: dict[str, list[float]] = {name: [] for name in (LOOP, ONE_CALL, *_WAYS)}
        processor: dict[str, list[float]] = {name: [] for name in seconds}
        # Engines are checked and compared before anything is timed.
        for name in (LOOP, *_WAYS):
            for command in _runs(name, raw[:1], root / f"first {name}", common):
                subprocess.run(command, check=True, capture_output=True)
        for number in range(runs):
            for name, spent in seconds.items():
                out = root / f"{number} {name}"
                started, used = time.perf_counter(), _processor_seconds()
                for command in _runs(name, raw, out, common):
                    subprocess.run(command, check=True, capture_output=True)
                spent.append(time.perf_counter() - started)
                processor[name].append(_processor_seconds() - used)
        last = root / f"{runs - 1} cohort, 1 process"
        return {
            "machine": machine(),
            "shape": SHAPE,
            "cases": cases,
            "runs": runs,
            "ways": {name: statistics.median(spent) for name, spent in seconds.items()},
            "processor": {name: statistics.median(used) for name, used in processor.items()},
            "stages": _stages(last),
            "bytes": _bytes(raw[0], last),
            "bookkeeping": _bookkeeping(root / "raw", last),
        }


def memory(folder: Path | None, cases: int, backend: str, precision: str) -> dict[str, Any]:
    """Resident memory in MB of a process that segments many cases, at some of them."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        _write(root / "raw", cases)
        settings = Settings(root / "out", backend=backend, precision=precision, threads=1).pinned(
            Bundle.open(folder)
        )
        found = find_cases(root / "raw").cases
        resident = []
        with settings.load() as predictor:
            for case in found:
                segment(case, settings, lambda: predictor)
                resident.append(resident_memory_mb() or 0.0)
    warm = resident[min(_WARM_CASES, cases - 1) :]
    return {
        "machine": machine(),
        "cases": cases,
        "first_mb": resident[0],
        "least_mb": min(warm),
        "most_mb": max(warm),
        "last_mb": resident[-1],
    }


def _processor_seconds() -> float:
    """Processor time of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _write(folder: Path, cases: int) -> list[Path]:
    """Write a BIDS dataset of one phantom under many names."""
    first = folder.parent / "phantom.nii.gz"
    folder.mkdir(parents=True)
    save_phantom(first, SHAPE)
    paths = []
    for number in range(1, cases + 1):
        name = f"sub-{number:04d}"
        path = folder / name / "dwi" / f"{name}_dwi.nii.gz"
        path.parent.mkdir(parents=True)
        shutil.copyfile(first, path)
        paths.append(path)
    return paths


def _runs(name: str, raw: list[Path], out: Path, common: list[str]) -> Iterator[list[str]]:
    """The commands of a way."""
    program = [sys.executable, "-m", "cnnres_infer"]
    if name == LOOP:
        for path in raw:
            yield [*program, "predict", str(path), "-o", str(out), *common]
    elif name == ONE_CALL:
        yield [*program, "predict", *map(str, raw), "-o", str(out), *common]
    else:
        folder = raw[0].parents[2]
        yield [*program, "cohort", str(folder), str(out), *_WAYS[name], *common]


def _stages(out: Path) -> dict[str, float]:
    reports = [read_sidecar(path)["report"]["timings_s"] for path in out.rglob("*_mask.json")]
    return {stage: statistics.median(report[stage] for report in reports) for stage in reports[0]}


def _bytes(image: Path, out: Path) -> dict[str, int]:
    name = image.name.partition("_")[0]
    written = out.rglob(f"{name}_*")
    return {
        "read": image.stat().st_size,
        "written": sum(path.stat().st_size for path in written if path.is_file()),
    }


def _bookkeeping(raw: Path, out: Path) -> dict[str, float]:
    """Seconds for each case that is done already: to find it so, and for its rows of the tables."""
    sidecar = next(iter(out.rglob("*_mask.json")))
    made_with = read_sidecar(sidecar)["marker"]["options"]
    settings = Settings(
        out,
        digest=made_with["bundle_sha256"],
        backend=made_with["backend"],
        precision=made_with["precision"],
    )
    started = time.perf_counter()
    found = find_cases(raw)
    plan = Plan.make(found, settings)
    planned = time.perf_counter()
    assert not plan.to_do
    rebuild(out, settings.lease)
    ended = time.perf_counter()
    count = len(found.cases)
    return {"recall": (planned - started) / count, "tables": (ended - planned) / count}
