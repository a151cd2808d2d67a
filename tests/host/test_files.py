import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnres_infer import Bundle, Predictor
from cnnres_infer.errors import (
    BundleError,
    CnnresError,
    LimitError,
    OutputError,
    ReferenceFileError,
)
from cnnres_infer.host import atomic
from cnnres_infer.host.arrays import read_arrays
from cnnres_infer.host.atomic import exclusive
from cnnres_infer.host.deadline import check_time, time_limit
from cnnres_infer.host.files import NotAFileError, open_regular, read_regular
from cnnres_infer.host.lock import locked
from cnnres_infer.verification.reference import VolumeReference
from tests.conftest import BundleMaker

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices of POSIX")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


ODD: dict[str, Callable[[Path], None]] = {"pipe": pipe, "device": device, "folder": folder}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_only_regular_files_are_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a")
    with pytest.raises(NotAFileError) as caught:
        open_regular(tmp_path / "a")
    assert str(caught.value.strerror).endswith("not a file")


def test_a_link_to_a_regular_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "b", 10) == b"abc"


@pytest.mark.parametrize(("limit", "length"), [(2, 3), (3, 3), (1 << 40, 3), (0, 1)])
def test_no_more_is_read_than_needed(tmp_path: Path, limit: int, length: int) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert read_regular(tmp_path / "a", limit) == b"abc"[:length]


@pytest.mark.skipif(sys.platform != "linux", reason="files of the kernel")
def test_files_that_do_not_tell_their_size_are_read_whole() -> None:
    assert b"VmRSS" in read_regular(Path("/proc/self/status"), 1 << 20)


def test_names_that_are_none_are_refused() -> None:
    for name in ("a\0b", "\ud800"):
        with pytest.raises(OSError, match="not a valid name"):
            open_regular(Path(name))


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
@pytest.mark.parametrize("name", ["model.json", "model.fp32.onnx", "reference.npz"])
def test_a_bundle_of_odd_files_is_refused(
    make_bundle: BundleMaker, name: str, make: Callable[[Path], None]
) -> None:
    bundle = make_bundle()
    (bundle / name).unlink()
    make(bundle / name)
    with pytest.raises(BundleError, match="not a file"):
        Bundle.open(bundle).read(name)


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_other_inputs_may_not_be_odd_files_either(
    bright_bundle: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "a")
    with pytest.raises(ReferenceFileError, match="not a file"):
        VolumeReference.load(tmp_path / "a")
    pytest.importorskip("cryptography")
    with pytest.raises(BundleError, match="not a file"):
        Predictor.load(bright_bundle, trusted_key=tmp_path / "a")


def test_a_lock_is_waited_for_within_the_limit_of_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "a"),
        pytest.raises(LimitError),
        time_limit(0.01),
        locked(tmp_path / "a"),
    ):
        pass
    with locked(tmp_path / "a"):
        pass


def test_a_folder_that_stays_locked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        exclusive(tmp_path, []),
        pytest.raises(OutputError, match="another process has held its lock"),
        exclusive(tmp_path, [], patience=0.01),
    ):
        pass
    assert atomic._PATIENCE_S > 1


def test_a_pipe_is_no_lock(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(OSError, match="not a file"), locked(tmp_path / "a"):
        pass


def test_the_limit_that_ends_first_holds() -> None:
    check_time()
    with time_limit(1e-9), time_limit(100), pytest.raises(LimitError, match="timeout"):
        check_time()
    with time_limit(100):
        with time_limit(1e-9), pytest.raises(LimitError):
            check_time()
        check_time()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def bomb() -> bytes:
    """An archive of a few kilobytes whose array has a gigabyte."""
    buffer = io.BytesIO()
    header = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (1 << 30,)}
    np.lib.format.write_array_header_1_0(header, fields)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(1 << 20))
    return buffer.getvalue()


def no_array() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.npy", b"x")
    return buffer.getvalue()


SOUND = npz(a=np.arange(1000.0))
DAMAGED = {
    "empty": b"",
    "text": b"hello",
    "cut": SOUND[:-30],
    "flipped": SOUND[:100] + bytes([SOUND[100] ^ 255]) + SOUND[101:],
    "other array": npz(b=np.zeros(3)),
    "objects": npz(a=np.array([{}], object)),
    "too large": npz(a=np.zeros(1 << 17)),
    "bomb": bomb(),
    "no array": no_array(),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_archives_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_arrays(content, ("a",), 1 << 16)
    assert not isinstance(caught.value, CnnresError)


def test_arrays_are_read_as_they_were_written() -> None:
    made = {"a": np.asfortranarray(np.arange(12.0).reshape(3, 4)), "b": np.array("text")}
    found = read_arrays(npz(**made), ("a", "b"), 1 << 10)
    assert all(np.array_equal(found[name], made[name]) for name in made)


def test_a_process_with_limited_address_space_reads_a_bundle(bright_bundle: Path) -> None:
    code = (
        "import resource, sys; from cnnres_infer import Bundle\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)\n"
        "Bundle.open(sys.argv[1]).model('fp32')"
    )
    run = [sys.executable, "-c", code, str(bright_bundle)]
    assert subprocess.run(run, check=False).returncode == 0
