"""ISA-L decompresses what zlib decompresses, and nothing that was damaged."""

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


def _volume() -> bytes:
    data = np.random.default_rng(0).integers(0, 99, (8, 9, 10)).astype(np.int16)
    return volume_bytes(data, Grid(data.shape, np.eye(4)))


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
    found, expected = content(bytes(raw), isal_zlib), content(bytes(raw), zlib)
    # zlib refuses some codes that are unused, too.
    unharmed = gzip.decompress(file)
    assert found == expected or (expected is None and found == unharmed)


@pytest.mark.parametrize("flag", [0x20, 0x40, 0x80])
@pytest.mark.parametrize("codec", [isal_zlib, zlib])
def test_reserved_flags_are_refused(codec: ModuleType, flag: int) -> None:
    raw = bytearray(gzip.compress(b"hello", mtime=0))
    raw[3] = flag
    assert content(bytes(raw), codec) is None


@pytest.mark.parametrize("places", [(-6, 400), (-2, 400), (400,), (-9, -6), (30, 500)])
def test_zlib_tells_what_is_damaged(places: tuple[int, ...], tmp_path: Path) -> None:
    """Bytes that are lost do not pass for a header or a length of the file's own."""
    raw = bytearray(_volume())
    for place in places:
        del raw[place]
    path = tmp_path / "a.nii.gz"
    path.write_bytes(raw)
    with pytest.raises(VolumeError) as found:
        stream.read_verified(path, DEFAULT_LIMITS)
    with path.open("rb") as file, pytest.raises(VolumeError) as expected:
        stream._verify(stream._chunks(file, path, zlib), path, DEFAULT_LIMITS)
    assert str(found.value) == str(expected.value)


def test_what_isal_refuses_is_read_with_zlib(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Refusing:
        def __init__(self, wbits: int) -> None:
            self.eof = False

        def decompress(self, *_: object) -> bytes:
            raise stream.IsalError("Error -1 Invalid deflate block found")

    path = tmp_path / "a.nii.gz"
    path.write_bytes(_volume())
    expected = stream.read_verified(path, DEFAULT_LIMITS).content.getvalue()
    monkeypatch.setattr(isal_zlib, "decompressobj", Refusing)
    assert stream.read_verified(path, DEFAULT_LIMITS).content.getvalue() == expected
