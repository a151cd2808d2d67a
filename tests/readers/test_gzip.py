"""ISA-L decompresses what zlib decompresses, and nothing else."""

import gzip
import io
import zlib
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isal import isal_zlib

from cnnres_infer.core.grid import Grid
from cnnres_infer.errors import VolumeError
from cnnres_infer.limits import DEFAULT_LIMITS
from cnnres_infer.readers.nifti import stream
from cnnres_infer.readers.nifti.write import volume_bytes

noise = st.integers(0, 2**32).map(lambda seed: Random(seed).randbytes(70_000))
repeated = st.builds(bytes.__mul__, st.binary(min_size=1, max_size=9), st.integers(0, 3000))
compressed = st.builds(
    lambda content, level: gzip.compress(content, level, mtime=0),
    st.one_of(st.binary(max_size=400), repeated, noise),
    st.integers(0, 9),
)
files = st.lists(compressed, min_size=1, max_size=4).map(b"".join)


def content(file: bytes, codec: ModuleType) -> bytes | None:
    """What a file holds according to a codec; None if it is damaged."""
    try:
        return b"".join(stream._chunks(io.BytesIO(file), Path("a.nii.gz"), codec))
    except (stream.IsalError, VolumeError):
        return None


@given(files, st.sampled_from([1000, 1 << 16]), st.sampled_from([1000, 1 << 20]))
def test_sound_files(file: bytes, read: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_READ_BYTES", read)
        patch.setattr(stream, "_CHUNK_BYTES", chunk)
        assert content(file, isal_zlib) == gzip.decompress(file)


@given(files, st.data())
def test_damaged_files(file: bytes, data: st.DataObject) -> None:
    raw = bytearray(file)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1) | st.integers(0, min(20, len(raw) - 1)))
        match data.draw(st.sampled_from(["flip", "insert", "cut"])):
            case "flip":
                raw[place] ^= data.draw(st.integers(1, 255))
            case "insert":
                raw[place:place] = data.draw(st.binary(min_size=1, max_size=5))
            case "cut":
                del raw[max(1, place) :]
    assert content(bytes(raw), isal_zlib) == content(bytes(raw), zlib)


def test_what_isal_refuses_is_read_with_zlib(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Refusing:
        def __init__(self, wbits: int) -> None:
            self.eof = False

        def decompress(self, *_: object) -> bytes:
            raise stream.IsalError("Error -1 Invalid deflate block found")

    path = tmp_path / "a.nii.gz"
    path.write_bytes(volume_bytes(np.ones((3, 4, 5), np.uint8), Grid((3, 4, 5), np.eye(4))))
    expected = stream.read_verified(path, DEFAULT_LIMITS).content.getvalue()
    monkeypatch.setattr(isal_zlib, "decompressobj", Refusing)
    assert stream.read_verified(path, DEFAULT_LIMITS).content.getvalue() == expected
