"""Faults while running: signals, full disks, permissions, concurrency, failing engines, limits."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import nibabel
import numpy as np
import pytest

from cnnres_infer import Bundle, Predictor
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import Variants
from cnnres_infer.errors import EngineRunError, LimitError, OutputError
from cnnres_infer.host.machine import resident_memory_mb
from cnnres_infer.limits import Limits
from cnnres_infer.outputs.save import plan
from cnnres_infer.outputs.writers import DEFAULT_FORMATS
from cnnres_infer.readers.nifti.write import save_volume
from cnnres_infer.selection.select import Selection
from tests import commands
from tests.conftest import blob_volume

KILLS = int(os.environ.get("CNNRES_INFER_KILLS", "12"))
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and limits of Linux")

# Imports once, then forks a process for each folder to write to.
WORKER = """
import os, sys
from pathlib import Path
import PIL.Image, PIL.ImageDraw, cc3d, nibabel, onnxruntime, cnnres_infer.outputs.writers.overlay
from cnnres_infer import Predictor
bundle, volume = sys.argv[1:]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        with Predictor.load(bundle, threads=1) as predictor:
            predictor.predict(volume).save(line.strip())
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    image, _ = blob_volume()
    path = tmp_path / "in" / "dwi.nii.gz"
    path.parent.mkdir()
    save_volume(path, image.data, image.grid)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cnnres_infer", *map(str, arguments)]


def run(*arguments: object) -> Any:
    done = commands.run("cnnres_infer", *arguments, "--json")
    return done.returncode, json.loads(done.stdout)


def run_anew(*arguments: object, before: Callable[[], None] | None = None) -> Any:
    """Run a command in a process that shares no memory with others, or has limits."""
    done = subprocess.run(
        command(*arguments, "--json"),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=before,
    )
    return done.returncode, json.loads(done.stdout)


def assert_complete(folder: Path) -> None:
    outputs = plan(folder, "dwi", DEFAULT_FORMATS)
    assert set(folder.iterdir()) == set(outputs.values())
    assert json.loads(outputs["report"].read_text())["status"] == "done"
    assert np.asarray(nibabel.load(outputs["mask"]).dataobj).any()


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.slow
def test_killed_at_any_moment_all_stands_or_nothing(
    volume: Path, bright_bundle: Path, tmp_path: Path
) -> None:
    before = volume.read_bytes()
    start = [sys.executable, "-c", WORKER, str(bright_bundle), str(volume)]
    with subprocess.Popen(
        start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as worker:
        assert worker.stdin
        assert worker.stdout

        def killed_after(folder: Path, seconds: float | None) -> float:
            assert worker.stdin
            assert worker.stdout
            began = time.perf_counter()
            worker.stdin.write(f"{folder}\n")
            child = int(worker.stdout.readline())
            if seconds is not None:
                time.sleep(seconds)
                os.kill(child, signal.SIGKILL)
            worker.stdin.write("wait for it\n")
            worker.stdout.readline()
            return time.perf_counter() - began

        whole = max(killed_after(tmp_path / f"whole-{n}", None) for n in range(3))
        moments = random.Random(5)
        folders = [tmp_path / f"killed-{number}" for number in range(KILLS)]
        for folder in folders:
            killed_after(folder, moments.uniform(0, whole))
        finished = [f for f in folders if (f / "dwi_lesion_mask.nii.gz").exists()]
        for folder in finished:
            # If it was killed right after the mask got its name, the hidden file still exists.
            for hidden in folder.glob(".*.cnnres-part"):
                hidden.unlink()
            assert_complete(folder)
        for folder in set(folders) - set(finished):
            left = visible(folder) if folder.exists() else set()
            assert left <= {"dwi_report.json", "dwi_overlay.png"}
            killed_after(folder, None)
            assert_complete(folder)
    assert len(finished) < KILLS
    assert volume.read_bytes() == before


@pytest.mark.parametrize("steps", [1, 2])
def test_what_a_run_killed_between_two_outputs_left_is_replaced(
    volume: Path, bright_bundle: Path, tmp_path: Path, steps: int
) -> None:
    code = (
        "import os, sys; from cnnres_infer import Predictor\n"
        "from cnnres_infer.host import atomic\n"
        "commit, count = atomic._Staged.commit, []\n"
        "def killed(self, overwrite):\n"
        "    count.append(1)\n"
        f"    len(count) > {steps} and os.kill(os.getpid(), 9)\n"
        "    commit(self, overwrite)\n"
        # What is kept in the cache while the engine is opened must not be counted.
        "predictor = Predictor.load(sys.argv[1], threads=1)\n"
        "atomic._Staged.commit = killed\n"
        "predictor.predict(sys.argv[2]).save(sys.argv[3])"
    )
    out = tmp_path / "out"
    arguments = [sys.executable, "-c", code, str(bright_bundle), str(volume), str(out)]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    assert len(visible(out)) == steps
    assert not (out / "dwi_lesion_mask.nii.gz").exists()
    status, _ = run(volume, "-o", out, "--bundle", bright_bundle)
    assert status == 0
    assert_complete(out)


def test_a_report_of_another_program_is_kept(
    volume: Path, bright_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "dwi_report.json").write_text('{"status": "mine"}')
    status, entry = run(volume, "-o", tmp_path, "--bundle", bright_bundle)
    assert (status, entry["error"]["code"]) == (3, "E-OUTPUT-EXISTS")
    assert (tmp_path / "dwi_report.json").read_text() == '{"status": "mine"}'


def test_a_refused_volume_can_be_segmented_once_it_is_repaired(
    volume: Path, bright_bundle: Path, tmp_path: Path
) -> None:
    sound, out = volume.read_bytes(), tmp_path / "out"
    volume.write_bytes(sound[:-1])
    status, entry = run(volume, "-o", out, "--bundle", bright_bundle)
    assert (status, entry["error"]["code"]) == (3, "E-NIFTI-TRUNCATED")
    left = json.loads((out / "dwi_report.json").read_text())
    assert left["error"]["code"] == entry["error"]["code"]
    assert left["status"] == "failed"
    volume.write_bytes(sound)
    assert run(volume, "-o", out, "--bundle", bright_bundle)[0] == 0
    assert_complete(out)
    volume.write_bytes(sound[:-1])
    assert run(volume, "-o", out, "--overwrite", "--bundle", bright_bundle)[0] == 3
    assert_complete(out)


# Computes for minutes without returning to the interpreter, as a compiling backend may.
STUCK = """
import hashlib, sys
from cnnres_infer.cli import app as cli
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
def stuck(self, images):
    print("computing", file=sys.stderr, flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
OrtEngine.run = stuck
cli.run()
"""


def test_sigterm_stops_a_process_that_is_stuck_in_a_library(
    volume: Path, bright_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = [str(volume), "-o", str(out), "--bundle", str(bright_bundle), "--backend", "ort"]
    start = [sys.executable, "-c", STUCK, *arguments]
    with subprocess.Popen(start, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert process.stderr.readline() == "computing\n"
        process.terminate()
        assert process.wait(timeout=30) == 143
        assert "Traceback" not in process.stderr.read()
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.slow
def test_sigterm_at_any_moment_leaves_all_or_nothing(
    volume: Path, bright_bundle: Path, tmp_path: Path
) -> None:
    moments = random.Random(1)
    for number in range(6):
        out = tmp_path / f"out-{number}"
        arguments = command(volume, "-o", out, "--bundle", bright_bundle)
        with subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            time.sleep(moments.uniform(0.2, 0.8))
            process.terminate()
            # The last is the status if Python has not installed the handler yet.
            assert process.wait(timeout=30) in (0, 143, -signal.SIGTERM)
        if out.exists() and list(out.iterdir()):
            assert_complete(out)


def test_a_full_disk_leaves_no_outputs(volume: Path, bright_bundle: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    out = tmp_path / "out"
    status, entry = run_anew(volume, "-o", out, "--bundle", bright_bundle, before=limit)
    assert (status, entry["error"]["code"]) == (3, "E-OUTPUT-WRITE")
    assert not list(out.iterdir())
    assert run(volume, "-o", out, "--bundle", bright_bundle)[0] == 0
    assert_complete(out)


def test_a_read_only_folder_is_refused(volume: Path, bright_bundle: Path) -> None:
    out = volume.parent / "out"
    out.mkdir()
    out.chmod(0o555)
    with Predictor.load(bright_bundle, threads=1) as predictor:
        result = predictor.predict(volume)
    # Import everything now, since the other user may not read the package.
    result.save(volume.parent / "elsewhere")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.chdir(out)
                os.setresuid(65534, 65534, 65534)
                result.save(Path())
            result.save(out)
        except OutputError as error:
            status = 0 if "Permission denied" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not list(out.iterdir())


def test_only_one_of_two_processes_on_the_same_volume_succeeds(
    volume: Path, bright_bundle: Path, tmp_path: Path
) -> None:
    arguments = command(volume, "-o", tmp_path / "out", "--bundle", bright_bundle)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(arguments, **options) for _ in range(2)]  # type: ignore[call-overload]
    messages = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 3]
    assert sum("E-OUTPUT-EXISTS" in message for message in messages) == 1
    assert_complete(tmp_path / "out")
    again = [subprocess.Popen([*arguments, "--overwrite"], **options) for _ in range(2)]  # type: ignore[call-overload]
    for process in again:
        assert process.wait() == 0, process.communicate()
        process.communicate()
    assert_complete(tmp_path / "out")


class FailingEngine:
    """Computes one batch, then fails in the given way."""

    VARIANTS: ClassVar[Variants] = {Precision.FP32: ("fp32",)}
    BATCH: ClassVar[int] = 4
    LEAST: ClassVar[int] = 1
    RIVALS: ClassVar[tuple[Precision, ...]] = ()
    CACHE_FOLDER: ClassVar[str | None] = None

    def __init__(self, failure: str) -> None:
        self.failure = failure
        self.batches: list[int] = []

    def run(self, images: FloatArray) -> FloatArray:
        self.batches.append(len(images))
        output = np.zeros((len(images), 1, *images.shape[2:]), np.float32)
        if len(self.batches) == 2 and self.failure == "raises":
            raise EngineRunError("out of memory")
        if len(self.batches) == 2 and self.failure == "nan":
            output[0, 0, 80, 80] = np.nan
        if len(self.batches) == 2 and self.failure == "short":
            return output[:-1]
        if self.failure == "slow":
            time.sleep(0.05)
        return output

    def describe(self) -> EngineInfo:
        return EngineInfo("failing", "none", Precision.FP32, "fp32", 1, {})

    def close(self) -> None:
        pass


def with_engine(bundle: Path, failure: str, **limits: Any) -> tuple[Predictor, FailingEngine]:
    engine = FailingEngine(failure)
    choice = Selection(engine)  # type: ignore[arg-type]
    return Predictor(Bundle.open(bundle), choice, Limits(**limits)), engine


@pytest.mark.parametrize(
    ("failure", "code"),
    [("raises", "E-ENGINE-RUN"), ("nan", "E-ENGINE-OUTPUT"), ("short", "E-ENGINE-OUTPUT")],
)
def test_an_engine_that_fails_in_the_middle_of_a_volume(
    bright_bundle: Path, failure: str, code: str
) -> None:
    predictor, engine = with_engine(bright_bundle, failure)
    with pytest.raises(EngineRunError) as caught:
        predictor.predict(blob_volume()[0])
    assert caught.value.code == code
    assert len(engine.batches) == 2


def test_a_volume_that_exceeds_the_time_limit_is_refused(bright_bundle: Path) -> None:
    predictor, engine = with_engine(bright_bundle, "slow", timeout=0.06)
    with pytest.raises(LimitError, match="timeout") as caught:
        predictor.predict(blob_volume()[0])
    assert caught.value.code == "E-LIMIT-TIME"
    assert len(engine.batches) < 5


def test_batches_are_smaller_if_memory_is_limited(bright_bundle: Path) -> None:
    resident = resident_memory_mb()
    assert resident is not None
    free = int(resident * 1e6) + 60_000_000
    predictor, engine = with_engine(bright_bundle, "none", max_memory=free)
    volume = blob_volume()[0]
    predictor.predict(volume)
    assert max(engine.batches) < FailingEngine.BATCH
    full, whole = with_engine(bright_bundle, "none", max_memory=free * 10)
    full.predict(volume)
    assert sum(engine.batches) == sum(whole.batches)
    none, _ = with_engine(bright_bundle, "none", max_memory=int(resident * 1e6))
    with pytest.raises(LimitError, match=r"max.memory") as caught:
        none.predict(volume)
    assert caught.value.code == "E-LIMIT-MEMORY"


def test_a_memory_limit_below_the_smallest_batch_is_refused(bright_bundle: Path) -> None:
    pytest.importorskip("openvino")
    volume, slice_bytes = blob_volume()[0], 1100 * 160**2
    with Predictor.load(bright_bundle, "openvino", threads=1) as predictor:
        predictor.predict(volume)
        resident = resident_memory_mb()
        assert resident is not None
        for slices, fits in ((3, False), (6, True)):
            room = int(resident * 1e6) + volume.data.size * 16 + slices * slice_bytes
            predictor.limits = Limits(max_memory=room)
            if fits:
                predictor.predict(volume)
                continue
            with pytest.raises(LimitError, match=r"`backend`.* fewer than 4 slices") as caught:
                predictor.predict(volume)
            assert caught.value.code == "E-LIMIT-MEMORY"


@pytest.mark.slow
def test_the_limit_of_memory_holds_with_openvino(volume: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    # A precision that every processor computes in the same way.
    options = ("--backend", "openvino", "--precision", "fp32", "--threads", 1)
    run_anew(volume, "-o", tmp_path / "warm", *options)
    _, free = run_anew(volume, "-o", tmp_path / "free", *options)
    peak, batch = int(free["peak_memory_mb"] * 1e6), 4 * 1100 * 160**2
    limit = peak + 2 * batch
    status, entry = run_anew(volume, "-o", tmp_path / "bounded", *options, "--max-memory", limit)
    assert status == 0, entry
    assert entry["peak_memory_mb"] * 1e6 <= limit
    status, entry = run_anew(volume, "-o", tmp_path / "none", *options, "--max-memory", peak // 2)
    assert (status, entry["error"]["code"]) == (3, "E-LIMIT-MEMORY")


@pytest.mark.slow
def test_the_limit_of_memory_holds(volume: Path, tmp_path: Path) -> None:
    def peak(folder: str, *options: object) -> float:
        fixed = ("--backend", "ort", "--precision", "fp32", "--threads", 1)
        status, entry = run_anew(volume, "-o", tmp_path / folder, *fixed, *options)
        assert status == 0, entry
        return float(entry["peak_memory_mb"])

    # What it would need with whole slices is counted, more than cropped ones take.
    limit = int(1.15 * peak("free") * 1e6)
    assert peak("bounded", "--max-memory", limit) * 1e6 <= limit
    status, entry = run_anew(volume, "-o", tmp_path / "none", "--max-memory", "50M")
    assert (status, entry["error"]["code"]) == (3, "E-LIMIT-MEMORY")


@pytest.mark.slow
def test_memory_does_not_grow_over_many_volumes(bright_bundle: Path, volume: Path) -> None:
    code = (
        "import sys, tempfile; from cnnres_infer import Predictor\n"
        "from cnnres_infer.host.machine import resident_memory_mb\n"
        "predictor = Predictor.load(sys.argv[1], threads=1)\n"
        "for number in range(1, 101):\n"
        "    with tempfile.TemporaryDirectory() as folder:\n"
        "        formats = ('mask', 'report') + ('overlay',) * (number % 20 == 0)\n"
        "        predictor.predict(sys.argv[2]).save(folder, formats)\n"
        "    if number in (30, 100): print(resident_memory_mb())"
    )
    arguments = [sys.executable, "-c", code, str(bright_bundle), str(volume)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    after_30, after_100 = map(float, done.stdout.split())
    # An array of the volume that stayed each time would make it a fifth more.
    assert after_100 <= 1.06 * after_30
