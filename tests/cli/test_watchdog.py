"""Limits hold while something does not come back: the process ends, and says why."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cnnres_infer.readers.nifti.write import save_volume
from tests.conftest import blob_volume

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory and signals of Linux"),
    pytest.mark.slow,
]

# Stand for a runtime that loops, and for one that takes more and more memory; like these, they
# do not hold Python's lock.
LOOP = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)"
GRAB = "[open('/dev/zero', 'rb', 0).read(1 << 24) for _ in iter(int, 1)]"
# Takes it while it holds that lock.
HOLD_AND_GRAB = "[bytearray(b'x') * (1 << 24) for _ in iter(int, 1)]"
IN_ENGINE = "from cnnres_infer.engines.onnxruntime.cpu import OrtEngine as Place; name = 'run'"
IN_READER = "import cnnres_infer.readers.nifti.read as Place; name = 'read_verified'"
IN_BUNDLE = "import cnnres_infer.bundle.bundle as Place; name = 'check_model'"
IN_OUTPUT = "import cnnres_infer.outputs.writers.mask as Place; name = 'render'"


def started(place: str, what: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    code = (
        f"import hashlib\n{place}\nsetattr(Place, name, lambda *_: {what})\n"
        "from cnnres_infer.cli.app import run; run()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def run(place: str, what: str, *arguments: object) -> tuple[int, Any, str]:
    done = started(place, what, *arguments)
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture
def volumes(tmp_path: Path) -> list[Path]:
    image, _ = blob_volume()
    paths = [tmp_path / "first.nii.gz", tmp_path / "second.nii.gz"]
    for path in paths:
        save_volume(path, image.data, image.grid)
    return paths


@pytest.mark.parametrize(
    ("place", "what", "limit", "code"),
    [
        (IN_ENGINE, LOOP, ("--timeout", 6), "E-LIMIT-TIME"),
        (IN_READER, LOOP, ("--timeout", 6), "E-LIMIT-TIME"),
        (IN_OUTPUT, LOOP, ("--timeout", 6), "E-LIMIT-TIME"),
        (IN_ENGINE, GRAB, ("--max-memory", "700M"), "E-LIMIT-MEMORY"),
        (IN_READER, GRAB, ("--max-memory", "700M"), "E-LIMIT-MEMORY"),
    ],
    ids=["engine loops", "reader loops", "writer loops", "engine grabs", "reader grabs"],
)
def test_the_process_ends_with_a_report(
    bright_bundle: Path,
    volumes: list[Path],
    tmp_path: Path,
    place: str,
    what: str,
    limit: tuple[object, ...],
    code: str,
) -> None:
    out = tmp_path / "out"
    options = ("-o", out, "--bundle", bright_bundle, "--backend", "ort", "--no-self-check", *limit)
    status, entries, errors = run(place, what, *volumes, *options)
    assert status == 3
    assert [entry["error"]["code"] for entry in entries] == [code, code]
    assert [entry["input"] for entry in entries] == [str(volume) for volume in volumes]
    assert "not segmented" in entries[1]["error"]["message"]
    assert [line.split()[1] for line in errors.splitlines()] == [f"{code}:"] * 2
    assert [path.name for path in out.iterdir()] == ["first_report.json"]
    assert json.loads((out / "first_report.json").read_text())["error"]["code"] == code


def test_what_holds_the_lock_of_python_leaves_time_for_the_message(
    bright_bundle: Path, volumes: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("-o", out, "--bundle", bright_bundle, "--backend", "ort", "--no-self-check")
    done = started(IN_ENGINE, HOLD_AND_GRAB, volumes[0], *options, "--max-memory", "700M")
    assert done.returncode == 3
    assert done.stderr.startswith("cnnres-infer: E-LIMIT-MEMORY: ")


def test_opening_a_bundle_is_limited_too(
    bright_bundle: Path, volumes: list[Path], tmp_path: Path
) -> None:
    options = ("-o", tmp_path / "out", "--bundle", bright_bundle, "--backend", "ort")
    status, entries, errors = run(IN_BUNDLE, LOOP, *volumes, *options, "--timeout", 1)
    assert status == 3
    assert [entry["error"]["code"] for entry in entries] == ["E-LIMIT-TIME"]
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["verify", "demo"])
@pytest.mark.parametrize(
    ("what", "limit", "code"),
    [
        (LOOP, ("--timeout", 4), "E-LIMIT-TIME"),
        (GRAB, ("--max-memory", "700M"), "E-LIMIT-MEMORY"),
    ],
    ids=["engine loops", "engine grabs"],
)
def test_other_commands_are_limited_too(
    bright_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    what: str,
    limit: tuple[object, ...],
    code: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--bundle", bright_bundle, "--backend", "ort", *limit)
    status, entry, errors = run(IN_ENGINE, what, command, *options)
    assert (status, entry["error"]["code"]) == (3, code)
    assert errors.count("\n") == 1


def test_the_lock_of_another_process_is_not_waited_for(
    bright_bundle: Path, volumes: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    hold = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"locked\n"
        options = ("-o", out, "--bundle", bright_bundle, "--backend", "ort", "--timeout", 4)
        status, entry, _ = run("name = ''; Place = type('', (), {})", "0", volumes[0], *options)
        holder.kill()
    assert (status, entry["error"]["code"]) == (3, "E-LIMIT-TIME")
    assert [path.name for path in out.iterdir()] == ["first_report.json"]


@pytest.mark.parametrize("timeout", [80, "1e15", "inf"])
def test_without_being_exceeded_limits_change_nothing(
    bright_bundle: Path, volumes: list[Path], tmp_path: Path, timeout: object
) -> None:
    out = tmp_path / "out"
    options = ("-o", out, "--bundle", bright_bundle, "--backend", "ort")
    limits = ("--timeout", timeout, "--max-memory", "4G")
    status, entries, errors = run(
        "name = ''; Place = type('', (), {})", "0", *volumes, *options, *limits
    )
    assert (status, errors) == (0, "")
    assert [entry["status"] for entry in entries] == ["done", "done"]
