"""The harness on its seeds, on past failures, on random inputs, and briefly with atheris."""

import gzip
import importlib.util
import io
import json
import subprocess
import sys
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cnnres_infer import Predictor
from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.jsonable import to_json
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import InputError
from cnnres_infer.host.machine import peak_memory_mb
from cnnres_infer.outputs.writers.report import Report
from tests.conftest import oriented_affine
from tests.faults.files import nifti
from tests.fuzz.harness import (
    ARRAYS,
    BUNDLE,
    DICOM,
    GZIP,
    MINIMAL,
    ONNX,
    PACKED,
    PLAIN,
    SIDECARS,
    SMALL,
    check,
    seeds,
)

SEEDS = seeds()
KINDS = [PLAIN, PACKED, GZIP, ONNX, BUNDLE, SIDECARS, ARRAYS, DICOM]


@pytest.fixture(scope="module")
def predictor(bright_bundle: Path) -> Predictor:
    return Predictor.load(bright_bundle, threads=1)


def test_seeds_are_read_or_refused() -> None:
    found = Counter(check(seed) for seed in SEEDS)
    assert set(found) <= {"volume", "model", "bundle", "case", "arrays", *ErrorCode}
    assert found["volume"] >= 20
    assert found["model"] == found["bundle"] == found["arrays"] == 1
    assert found["case"] >= 1
    assert sum(code.startswith("E-") for code in found) >= 8


@given(
    st.sampled_from([nifti(SMALL), nifti(SMALL, wide=True), nifti(SMALL, order=">")]),
    st.lists(st.tuples(st.integers(0, 551), st.integers(0, 255)), min_size=1, max_size=8),
    st.sampled_from([PLAIN, PACKED]),
)
def test_any_header_is_read_or_refused(
    file: bytes, changes: list[tuple[int, int]], kind: int
) -> None:
    content = bytearray(file)
    for place, value in changes:
        content[place % len(content)] = value
    check(bytes([kind]) + content)


@given(st.integers(0, 10_000), st.integers(1, 255), st.integers(0, 9))
@example(200, 2, 8)
def test_flipped_bits_in_a_compressed_file_are_detected(place: int, flip: int, level: int) -> None:
    sound = gzip.compress(nifti(SMALL), level, mtime=0)
    content = bytearray(sound)
    content[place % len(content)] ^= flip
    # Flags, time and operating system in gzip's header do not affect the content.
    harmless = 4 <= place % len(content) < 10 or place % len(content) == 3
    outcome = check(bytes([GZIP]) + content)
    # A run of equal bytes may be copied from another position, with the same result.
    assert harmless or outcome != "volume" or gzip.decompress(content) == nifti(SMALL)


@given(st.binary(max_size=600), st.sampled_from(KINDS))
def test_any_bytes_are_read_or_refused(content: bytes, kind: int) -> None:
    check(bytes([kind]) + content)


@given(
    st.sampled_from(["format", "name", "input", "fusion", "mask", "variants", "sha256"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
)
def test_any_manifest_is_read_or_refused(key: str, value: object) -> None:
    check(bytes([BUNDLE]) + json.dumps({**MINIMAL, key: value}).encode())


@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=8))
def test_any_changed_file_is_read_or_refused(seed: bytes, changes: list[tuple[int, int]]) -> None:
    content = bytearray(seed)
    for place, value in changes:
        content[1 + place % (len(content) - 1)] = value
    check(bytes(content))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 1e999}', '{"format": ' + "9" * 5000])
def test_pathological_json_is_refused(text: str) -> None:
    assert check(bytes([BUNDLE]) + text.encode()) == "E-BUNDLE-MANIFEST"


@settings(max_examples=60)
@given(
    arrays(
        np.float32,
        st.tuples(*[st.integers(1, 9)] * 3),
        elements=st.sampled_from([0.0, -1.0, 1.0, 100.0, 190.0, 1e-29, 1e29, -1e29, np.nan, np.inf])
        | st.floats(width=32),
    ),
    st.tuples(*[st.floats(0.01, 99.0)] * 3),
    st.tuples(*[st.floats(-4.0, 4.0)] * 3),
    st.booleans(),
)
def test_any_volume_is_segmented_or_refused(
    predictor: Predictor,
    data: np.ndarray,
    spacing: tuple[float, float, float],
    tilt: tuple[float, float, float],
    with_flair: bool,
) -> None:
    affine = oriented_affine((0, 1, 2), (-1, 1, 1), spacing, tilt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            flair = Volume.from_array(data[::-1], affine) if with_flair else None
            result = predictor.predict(data, affine=affine, flair=flair)
        except InputError:
            return
        assert np.isfinite(result.probabilities.data).all()
        assert result.mask.data.shape == data.shape
        json.dumps(to_json(Report.of(result)), allow_nan=False)


# Fuzzing found numbers that make numpy warn: signalling NaNs when converted, and tiny
# numbers in singular matrices.
SIGNALLING = np.frombuffer(b"\x01\0\x80\x7f", "<f4")[0]


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"srow_x": [SIGNALLING, 0, 0, 0]}, "E-NIFTI-SFORM"),
        ({"quatern_b": SIGNALLING}, "volume"),
        ({"srow_x": [1e-45, 0, 0, 0], "srow_y": [1e-45, 0, 0, 0]}, "E-NIFTI-SFORM"),
        ({"srow_x": [-1e-45, 0, 0, 0]}, "E-GRID-SPACING"),
        ({"pixdim": [1, SIGNALLING, 1, 1, 1, 1, 1, 1]}, "E-NIFTI-PIXDIM"),
        ({"scl_slope": SIGNALLING}, "volume"),
        ({"scl_inter": SIGNALLING}, "E-NIFTI-SCALE"),
    ],
)
def test_what_fuzzing_found(fields: dict[str, Any], outcome: str) -> None:
    file = nifti(SMALL)
    header = np.frombuffer(file[:348], nibabel.nifti1.header_dtype).copy()
    for name, value in fields.items():
        header[name] = value
    check(bytes([PLAIN]) + file)
    assert check(bytes([PLAIN]) + header.tobytes() + file[348:]) == outcome


@pytest.mark.parametrize("header", ["{'descr': (", "(" * 500, "\0", "{'shape': (1,)}", "[" * 9000])
def test_headers_of_arrays_that_python_does_not_parse(header: str) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        size = len(header).to_bytes(2, "little")
        for name in ("images", "probabilities"):
            file.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + size + header.encode())
    assert check(bytes([ARRAYS]) + archive.getvalue()) == "not arrays"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_a_moment_of_fuzzing_finds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("run.py")), str(tmp_path / "corpus")]
    # Linux counts the peak of this process as one of the child's.
    limit = f"-rss_limit_mb={1024 + int(peak_memory_mb() or 0)}"
    options = ["-runs=10000", "-seed=1", limit, f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 10000 runs" in done.stderr
