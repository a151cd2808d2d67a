"""Folders, archives and files that are damaged, hostile, or no images."""

import io
import logging
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from cnnres_infer.errors import InputError, LimitError, VolumeError
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.readers import case_name, load_case, load_volume
from cnnres_infer.readers.dicom.codestream import encoded_size
from cnnres_infer.readers.dicom.study import open_study
from tests.fakes.dicom import archive, classic_images, encode, enhanced_image, save, siemens
from tests.readers.dicom.scans import B0, FLAIR, TRACE, agrees, noise, read

SR = "1.2.840.10008.5.1.4.1.1.88.33"


def study(folder: Path) -> Path:
    return save(folder, classic_images([B0, TRACE], siemens))


def files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.rglob("*") if each.is_file())


def change(folder: Path, edit: Callable[[FileDataset], None], first: int = 1) -> None:
    for file in files(folder)[:first]:
        image = pydicom.dcmread(file)
        edit(image)
        image.save_as(file)


def code(path: Path, limits: Limits = DEFAULT_LIMITS) -> str:
    with pytest.raises(InputError) as caught:
        load_case(path, limits=limits)
    return caught.value.code


def test_nested_folders_without_suffix_beside_other_files(tmp_path: Path) -> None:
    study(tmp_path)
    (tmp_path / "README.txt").write_text("export")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 100)
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    assert agrees(read(tmp_path).volume, TRACE)


def test_an_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "study.zip", study(tmp_path / "study"))
    assert agrees(read(path).volume, TRACE)
    assert case_name(path) == "study"


def test_the_name_of_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = study(tmp_path / "case.1")
    assert case_name(folder) == "case.1"
    monkeypatch.chdir(folder)
    assert case_name(Path()) == "case.1"


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b", "..\\up", "c:/x", "."])
def test_a_member_that_lies_outside(name: str, tmp_path: Path) -> None:
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(name, files(study(tmp_path / "study"))[0].read_bytes())
    assert code(path) == "E-DICOM-ARCHIVE"


def test_a_member_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("nameless", files(study(tmp_path / "study"))[0].read_bytes())
    # Names end at a zero byte.
    path.write_bytes(path.read_bytes().replace(b"nameless", b"\0ameless"))
    assert code(path) == "E-DICOM-ARCHIVE"


def test_damaged_archives(tmp_path: Path) -> None:
    whole = archive(tmp_path / "study.zip", study(tmp_path / "study")).read_bytes()
    cut = tmp_path / "cut.zip"
    cut.write_bytes(whole[: len(whole) // 2])
    assert code(cut) == "E-DICOM-ARCHIVE"
    flipped = bytearray(whole)
    flipped[600] ^= 0xFF
    flipped[700] ^= 0xFF
    bad = tmp_path / "bad.zip"
    bad.write_bytes(bytes(flipped))
    assert code(bad) in ("E-DICOM-ARCHIVE", "E-DICOM-FILE")


def test_a_member_that_ends_early(tmp_path: Path) -> None:
    """It lies in the archive's comment, where it can end with the file."""
    name, empty_block = b"image", b"\0\0\0\xff\xff"
    fields = struct.pack("<HHHHHLLL", 20, 0, zipfile.ZIP_DEFLATED, 0, 33, 0, 60_000, 5000)
    sizes = struct.pack("<HH", len(name), 0)
    begin = b"PK\3\4"
    member = begin + fields + sizes + name + 9 * empty_block
    size = 46 + len(name)
    place = struct.pack("<HHHLL", 0, 0, 0, 0, len(begin) + size + 22)
    entry = b"PK\1\2" + struct.pack("<H", 20) + fields + sizes + place + name
    end = b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 1, 1, size, len(begin), len(member))
    path = tmp_path / "study.zip"
    path.write_bytes(begin + entry + end + member)
    with pytest.raises(VolumeError, match="image cannot be read") as caught:
        read(path)
    assert caught.value.code == "E-DICOM-ARCHIVE"


def test_a_member_of_another_compression_that_is_damaged(tmp_path: Path) -> None:
    pytest.importorskip("lzma")
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as out:
        out.writestr("image", np.random.default_rng(0).bytes(5000))
    content = bytearray(path.read_bytes())
    content[39] = 0xFF
    path.write_bytes(bytes(content))
    assert code(path) == "E-DICOM-ARCHIVE"


def test_an_archive_that_is_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a", b"\0" * 128 + b"DICM" + bytes(1 << 22))
    assert path.stat().st_size < 1 << 14
    assert code(path, Limits(max_bytes=1 << 20)) == "E-LIMIT-BYTES"


def deflated(image: FileDataset, extra: int = 0) -> bytes:
    """A deflated file, with zeros appended to its pixels."""
    content = encode(image)
    plain = io.BytesIO()
    image.PixelData += bytes(extra)
    image.save_as(plain, enforce_file_format=True)
    meta_end = 144 + int.from_bytes(content[140:144], "little")
    grown = plain.getvalue()
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = squeezer.compress(grown[meta_end:]) + squeezer.flush()
    head = grown[:meta_end].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    length = int.from_bytes(head[140:144], "little") + 2
    at = head.index(b"1.2.840.10008.1.2.1.99")
    return (
        head[:140]
        + length.to_bytes(4, "little")
        + head[144 : at - 2]
        + (22).to_bytes(2, "little")
        + head[at:]
        + body
    )


def test_a_deflated_series(tmp_path: Path) -> None:
    for number, image in enumerate(classic_images([B0, TRACE], siemens)):
        (tmp_path / str(number)).write_bytes(deflated(image))
    assert agrees(read(tmp_path).volume, TRACE)


def test_a_deflated_bomb(tmp_path: Path) -> None:
    study(tmp_path)
    (image,) = classic_images([TRACE.but(slices=[0])], siemens, number=9)
    bomb = tmp_path / "bomb"
    bomb.write_bytes(deflated(image, extra=1 << 24))
    assert bomb.stat().st_size < 1 << 16
    assert code(tmp_path, Limits(max_bytes=1 << 22)) == "E-LIMIT-BYTES"


def test_images_that_claim_to_be_huge(tmp_path: Path) -> None:
    def claim(image: FileDataset) -> None:
        image.Rows = image.Columns = 65535

    change(study(tmp_path / "rows"), claim, first=100)
    assert code(tmp_path / "rows") == "E-LIMIT-VOXELS"


@pytest.mark.parametrize("frames", ["2000000000", "1A", "-3", "13"])
def test_frames_that_are_not_there(frames: str, tmp_path: Path) -> None:
    image = enhanced_image([B0, TRACE])
    content = encode(image).replace(b"(\0\x08\0IS\x02\x0014", _frames(frames))
    (tmp_path / "a").write_bytes(content)
    assert code(tmp_path) == "E-DICOM-FILE"


def _frames(count: str) -> bytes:
    value = count.encode()
    value += b" " * (len(value) % 2)
    return b"(\0\x08\0IS" + len(value).to_bytes(2, "little") + value


def test_truncated_pixels(tmp_path: Path) -> None:
    study(tmp_path)
    for file in files(tmp_path):
        content = file.read_bytes()
        file.write_bytes(content[:-60])
    assert code(tmp_path) in ("E-DICOM-PIXELS", "E-DICOM-FILE")


def test_no_transfer_syntax(tmp_path: Path) -> None:
    study(tmp_path)
    for file in files(tmp_path):
        content = file.read_bytes()
        end = 144 + int.from_bytes(content[140:144], "little")
        file.write_bytes(content[end:])
    assert code(tmp_path) == "E-DICOM-FILE"


def test_a_file_that_cannot_be_parsed_may_belong_to_the_dwi(tmp_path: Path) -> None:
    study(tmp_path)
    (tmp_path / "cut").write_bytes(files(tmp_path)[0].read_bytes()[:200])
    assert code(tmp_path) == "E-DICOM-FILE"


def test_copies_of_a_file(tmp_path: Path) -> None:
    study(tmp_path)
    first = files(tmp_path)[0]
    (tmp_path / "copy").write_bytes(first.read_bytes())
    assert agrees(read(tmp_path).volume, TRACE)
    change(tmp_path, lambda image: setattr(image, "PixelData", image.PixelData[::-1]))
    (tmp_path / "copy").write_bytes(first.read_bytes()[:-1] + b"\0")
    assert code(tmp_path) == "E-DICOM-FILE"


def test_what_is_no_grey_image_is_skipped_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study(tmp_path)
    report, *_ = classic_images([B0.but(slices=[0])], number=90, description="report")
    report.SOPClassUID = SR
    colours, *_ = classic_images([B0.but(slices=[0])], number=91, description="FA colour")
    colours.SamplesPerPixel, colours.PhotometricInterpretation = 3, "RGB"
    phase, *_ = classic_images(
        [B0.but(slices=[0], image_type=("ORIGINAL", "PRIMARY", "P"))], number=92
    )
    save(tmp_path, [report, colours, phase])
    (tmp_path / "notes.txt").write_text("text")
    with caplog.at_level(logging.INFO, "cnnres_infer"):
        assert agrees(read(tmp_path).volume, TRACE)
    for each in ("Comprehensive SR Storage", "RGB", "phase", "1 files skipped: not DICOM images"):
        assert each in caplog.text


def test_no_images_at_all(tmp_path: Path) -> None:
    assert code(tmp_path) == "E-FILE-KIND"
    report, *_ = classic_images([B0.but(slices=[0])])
    report.SOPClassUID = SR
    save(tmp_path, [report])
    assert code(tmp_path) == "E-DICOM-NONE"
    empty = tmp_path / "empty.zip"
    with zipfile.ZipFile(empty, "w"):
        pass
    assert code(empty) in ("E-DICOM-NONE", "E-FILE-NAME")


def compress_jpeg2000(image: FileDataset) -> None:
    from openjpeg.utils import encode_array

    stored = np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)
    code = encode_array(stored, bits_stored=16, photometric_interpretation=2, use_mct=False)
    image.PixelData = encapsulate([code])
    image["PixelData"].is_undefined_length = True
    image["PixelData"].VR = "OB"
    image.file_meta.TransferSyntaxUID = JPEG2000Lossless


def test_mixed_compression(tmp_path: Path) -> None:
    # The encoder refuses smaller images.
    trace = TRACE.but(data=noise(11, (64, 48, 3)))
    images = classic_images([trace, trace.but(b=0.0, kind="b0")], siemens)
    for image in images[::3]:
        image.compress(RLELossless, generate_instance_uid=False)
    for image in images[1::3]:
        compress_jpeg2000(image)
    save(tmp_path, images)
    assert agrees(read(tmp_path).volume, trace)


def test_lossless_jpeg(tmp_path: Path) -> None:
    study(tmp_path)
    for file in files(tmp_path):
        recode_jpeg(file)
        assert pydicom.dcmread(file).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    assert agrees(read(tmp_path).volume, TRACE)


def recode_jpeg(file: Path) -> None:
    import gdcm

    reader, change = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(file))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(file))
    assert writer.Write()


def test_a_codestream_of_another_size_than_its_image(tmp_path: Path) -> None:
    images = classic_images([TRACE.but(data=noise(11, (64, 48, 3)))], siemens)
    for image in images:
        compress_jpeg2000(image)
        image.Rows, image.Columns = image.Columns, image.Rows
    save(tmp_path, images)
    assert code(tmp_path) == "E-DICOM-PIXELS"


def test_sizes_of_codestreams() -> None:
    jpeg2000 = b"\xff\x4f\xff\x51\0\x29\0\0" + b"".join(
        size.to_bytes(4, "big") for size in (512, 300, 0, 44)
    )
    assert encoded_size(jpeg2000) == (256, 512)
    tables = b"\xff\xd8\xff\xc4\0\x04\0\0"
    frame = b"\xff\xc3\0\x0b\x10\x01\x00\x02\x00\x01"
    assert encoded_size(tables + frame) == (256, 512)
    assert encoded_size(b"\0" * 64) is None


def test_a_volume_over_the_limit(tmp_path: Path) -> None:
    study(tmp_path)
    assert code(tmp_path, Limits(max_voxels=100)) == "E-LIMIT-VOXELS"


def test_a_single_series_is_a_volume_whatever_it_shows(tmp_path: Path) -> None:
    save(tmp_path, classic_images([FLAIR], number=7))
    assert agrees(load_volume(tmp_path), FLAIR)


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study(tmp_path)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(VolumeError, match=r"pip install 'cnnres-infer\[dicom\]'") as caught:
        load_case(tmp_path)
    assert caught.value.code == "E-DICOM-EXTRA"


def test_reading_changes_nothing(tmp_path: Path) -> None:
    study(tmp_path)
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files(tmp_path)}
    read(tmp_path)
    assert before == {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in files(tmp_path)}


def test_pixels_stay_readable_in_an_open_study(tmp_path: Path) -> None:
    path = archive(tmp_path / "study.zip", study(tmp_path / "study"))
    with open_study(path, DEFAULT_LIMITS) as opened:
        (series,) = opened.series
        assert len(series.frames) == 2 * TRACE.data.shape[2]
        frame = series.frames[0]
        with pytest.raises(LimitError):
            frame.image.file.read(Limits(max_bytes=10))
        content = frame.image.file.read(DEFAULT_LIMITS)
    assert np.frombuffer(content[128:132], "S4")[0] == b"DICM"
