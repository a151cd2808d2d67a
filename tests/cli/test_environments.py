"""Ordinary machines that lack something: no home, no output, little memory, odd names.

None of them ends in an internal error, and none ends a batch.
"""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cnnres_infer.readers.nifti.write import save_volume
from tests.conftest import blob_volume

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="limits and devices of Linux"),
    pytest.mark.slow,
]

START = "from cnnres_infer.cli.app import run; run()"
NOBODY = f"import pwd\ndef nobody(_): raise KeyError\npwd.getpwuid = nobody\n{START}"
NO_CACHE = {"CNNRES_INFER_CACHE": None, "XDG_CACHE_HOME": None}


@dataclass(frozen=True)
class Environment:
    """How a command is started; None removes a variable."""

    variables: dict[str, str | None] = field(default_factory=dict)
    code: str = START
    name: bytes = b"first"
    before: Callable[[], object] | None = None
    stdout: str = ""
    stderr: str = ""
    status: tuple[int, ...] = (0,)


def removed_folder() -> None:
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()


def limit(what: int, amount: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (amount, amount))


ENVIRONMENTS = {
    "ordinary": Environment(),
    "no home": Environment({**NO_CACHE, "HOME": None}, NOBODY),
    "home that does not exist": Environment({**NO_CACHE, "HOME": "/proc/none"}),
    "home that is a file": Environment({**NO_CACHE, "HOME": "/dev/null"}),
    "relative cache": Environment({**NO_CACHE, "HOME": None, "XDG_CACHE_HOME": "c"}, NOBODY),
    "relative own cache": Environment({"CNNRES_INFER_CACHE": "own"}),
    "cache that is a device": Environment({"CNNRES_INFER_CACHE": "/dev/null"}),
    "removed working folder": Environment(before=removed_folder),
    "removed working folder and relative cache": Environment(
        {"CNNRES_INFER_CACHE": "own"}, before=removed_folder
    ),
    "no temporary folder": Environment({"TMPDIR": "/proc/none"}),
    "name in Latin-1": Environment(name=b"M\xfcller"),
    "name in Latin-1, strict output": Environment(
        {"PYTHONIOENCODING": "utf-8:strict"}, name=b"M\xfcller"
    ),
    "name in Chinese, ASCII output": Environment(
        {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "PYTHONUTF8": "0"},
        name="脳".encode(),
    ),
    "name that acts on a terminal": Environment(name=b"a\x1b[31m\nE-OK: b\r\x9b1m\xe2\x80\xaec"),
    "name with markup": Environment(name=b"[bold][link=a]b[red"),
    "closed output": Environment(stdout="closed"),
    "closed output and errors": Environment(stdout="closed", stderr="closed"),
    "full output": Environment(stdout="/dev/full", status=(3,)),
    "full errors": Environment(stderr="/dev/full"),
    "output that nobody reads": Environment(stdout="broken", status=(3,)),
    "little address space": Environment(
        {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        before=limit(resource.RLIMIT_AS, 1 << 30),
    ),
    # A runtime that does not check what it allocates may end the process.
    "hardly any address space": Environment(
        before=limit(resource.RLIMIT_AS, 300 << 20), status=(0, 1, 3, 5, -6, -11)
    ),
    "few open files": Environment(before=limit(resource.RLIMIT_NOFILE, 24)),
    "hardly any open files": Environment(before=limit(resource.RLIMIT_NOFILE, 8), status=(0, 3, 5)),
}


def start(where: Environment, folder: Path, *arguments: object) -> tuple[int, bytes, bytes]:
    """Exit status, output and errors of the command line in an environment."""
    changes = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    variables = {k: v for k, v in {**changes, **where.variables}.items() if v is not None}
    closed = [n for n, how in ((1, where.stdout), (2, where.stderr)) if how == "closed"]

    def before() -> None:
        for number in closed:
            os.close(number)
        if where.before:
            where.before()

    streams: dict[str, Any] = {}
    for stream, how in (("stdout", where.stdout), ("stderr", where.stderr)):
        streams[stream] = subprocess.PIPE
        if how.startswith("/dev"):
            streams[stream] = os.open(how, os.O_WRONLY)
        elif how == "broken":
            reader, streams[stream] = os.pipe()
            os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", where.code, *map(os.fsencode, map(str, arguments))],
            check=False,
            cwd=folder,
            env=variables,
            preexec_fn=before,
            timeout=120,
            **streams,
        )
    finally:
        for stream in streams.values():
            if stream != subprocess.PIPE:
                os.close(stream)
    return done.returncode, done.stdout or b"", done.stderr or b""


@pytest.mark.parametrize("where", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_a_batch_goes_on(where: Environment, bright_bundle: Path, tmp_path: Path) -> None:
    image, _ = blob_volume()
    second, damaged = tmp_path / "second.nii.gz", tmp_path / "damaged.nii.gz"
    first = tmp_path / os.fsdecode(where.name + b".nii.gz")
    save_volume(second, image.data, image.grid)
    shutil.copy(second, first)
    damaged.write_bytes(second.read_bytes()[:-9])
    out = tmp_path / "out"
    options = ("--bundle", bright_bundle, "--backend", "ort", "--threads", 1, "-o", out)
    status, printed, errors = start(where, tmp_path, first, second, *options)
    assert b"E-INTERNAL" not in errors, errors
    assert b"Traceback" not in errors or b"MemoryError" in errors, errors
    # ONNX Runtime's own log, of memory that it lacks, is in colour.
    own = [line for line in errors.splitlines() if b"onnxruntime" not in line]
    assert b"\x1b" not in b"".join((printed, *own))
    assert b"\nE-OK" not in printed + errors
    if status == 1:
        # Python itself does not start, or has no memory left to end properly.
        assert b"cnnres-infer" not in errors or b"MemoryError" in errors
        return
    assert status in where.status, (status, errors)
    if where.status in ((0,), (3,)):
        for volume in (first, second):
            assert (out / f"{volume.name[:-7]}_lesion_mask.nii.gz").exists()
        again = (damaged, second, *options, "--overwrite")
        status, _, errors = start(where, tmp_path, *again)
        assert status == 3
        assert b"E-INTERNAL" not in errors
        assert (out / "damaged_report.json").exists()
        assert (out / "second_lesion_mask.nii.gz").exists()


# Not those that only name a volume in another way.
@pytest.mark.parametrize(
    "where",
    [
        pytest.param(where, id=name)
        for name, where in ENVIRONMENTS.items()
        if name == "ordinary" or where != Environment(name=where.name)
    ],
)
@pytest.mark.parametrize("command", ["info", "cache"])
def test_other_commands_answer_or_refuse(
    where: Environment, command: str, bright_bundle: Path, tmp_path: Path
) -> None:
    status, _, errors = start(where, tmp_path, command, "--bundle", bright_bundle)
    assert b"E-INTERNAL" not in errors, errors
    if status == 1:
        # Python itself does not start, or has no memory left to end properly.
        assert b"cnnres-infer" not in errors or b"MemoryError" in errors
    else:
        assert status in (*where.status, 3)
