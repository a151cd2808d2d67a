"""Cohorts to segment, and a killer of the processes that do."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from cnnres_infer.cohort.settings import Settings
from cnnres_infer.readers.nifti.write import save_volume
from tests import commands
from tests.conftest import blob_volume

ENGINE = ("--backend", "ort", "--precision", "fp32")
PATIENCE_S = 60.0


def write_dwi(path: Path, number: int = 0) -> Path:
    """Write an image with a lesion that is another one for each number."""
    centre = (20.0 - number % 9, 10.0 + number % 5, 5.0)
    volume, _ = blob_volume((48, 56, 10), centre_mm=centre, radius_mm=6.0 + number % 7)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_volume(path, volume.data, volume.grid, overwrite=True)
    return path


def write_damaged(path: Path) -> Path:
    """Write an image that ends too early."""
    write_dwi(path)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def write_dataset(root: Path, count: int) -> Path:
    """Write a BIDS dataset of trace images, each with a map that must not be segmented."""
    for number in range(1, count + 1):
        folder, stem = root / f"sub-{number:03d}" / "dwi", f"sub-{number:03d}"
        write_dwi(folder / f"{stem}_rec-TRACE_dwi.nii.gz", number)
    description = {"Name": "generated", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


def settings(out: Path, bundle: Path, **options: object) -> Settings:
    """Settings for a bundle that need no self-check."""
    from cnnres_infer.bundle.bundle import Bundle

    fixed = {"backend": "ort", "precision": "fp32", "self_check": False, "overlay": False}
    made = Settings(out, **{**fixed, **options})  # type: ignore[arg-type]
    return made.pinned(Bundle.open(bundle))


def command(*arguments: object) -> list[str]:
    """The command line of a cohort."""
    return [sys.executable, "-m", "cnnres_infer", "cohort", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return commands.run("cnnres_infer", "cohort", *arguments)


def masks(out: Path) -> dict[str, str]:
    """SHA-256 of all masks by their path in the output."""
    return {
        path.relative_to(out).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*_mask.nii.gz"))
    }


def claims(out: Path) -> set[str]:
    """Claims that are left on cases."""
    return {path.name for path in (out / ".cnnres" / "claims").glob("*.*")}


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.005)


@contextmanager
def killer(out: Path, name: str, most: int) -> Iterator[list[int]]:
    """Kill the processes that claim a case, up to a number; yields their IDs."""
    killed: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while len(killed) < most and not ended.wait(0.002):
            path = out / ".cnnres" / "claims" / f"{name}.{len(killed) + 1}"
            try:
                owner = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            os.kill(owner["pid"], signal.SIGKILL)
            killed.append(owner["pid"])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


@contextmanager
def scheduler(folder: Path, workers: int, allowed: int = 3) -> Iterator[str]:
    """Run a Dask scheduler and workers, each a process of its own; yields its address."""
    from distributed import Client

    known = folder / "scheduler.json"
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(allowed),
    }
    common = ("--scheduler-file", str(known), "--no-dashboard")
    worker = ("dask_worker", *common, "--nthreads", "1", "--no-nanny")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{program}", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        for program, *options in (
            ("dask_scheduler", *common, "--host", "127.0.0.1", "--port", "0"),
            *((*worker, "--local-directory", str(folder / f"{n}")) for n in range(workers)),
        )
    ]
    try:
        wait_for(known.exists, "the scheduler's file")
        with Client(scheduler_file=str(known), timeout=PATIENCE_S, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=PATIENCE_S)
            address = str(client.scheduler.address)
        yield address
    finally:
        for each in reversed(processes):
            each.kill()
            each.wait()
