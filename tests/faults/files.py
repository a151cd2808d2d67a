"""Files with one fault each, derived from a valid one, by the code that each must cause."""

import functools
import gzip
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np

from tests.conftest import blob_volume

VOXELS, _ = blob_volume()
DATA = np.asfortranarray(VOXELS.data.astype("<i2"))
GIB = 1 << 30


def nifti(
    data: np.ndarray = DATA,
    wide: bool = False,
    order: Literal["<", ">"] = "<",
    extension: bytes = b"\0\0\0\0",
    **fields: Any,
) -> bytes:
    """Compose a NIfTI file without any checks."""
    kind = nibabel.nifti2 if wide else nibabel.nifti1
    header = np.zeros((), kind.header_dtype.newbyteorder(order))
    header["sizeof_hdr"] = 540 if wide else 348
    header["magic"] = b"n+2\0" if wide else b"n+1\0"
    if wide:
        header["eol_check"] = np.frombuffer(b"\r\n\x1a\n", "i1")
    header["dim"] = [data.ndim, *data.shape, *[1] * (7 - data.ndim)]
    header["datatype"], header["bitpix"] = 4, 16
    header["pixdim"] = [-1, 2.5, 2.5, 5, 1, 1, 1, 1]
    header["vox_offset"] = int(header["sizeof_hdr"]) + len(extension)
    header["scl_slope"], header["xyzt_units"] = 1, 2
    header["sform_code"] = header["qform_code"] = 1
    affine = VOXELS.grid.affine
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        header[name] = affine[row]
    # A rotation by 180 degrees about the second axis, with the third axis reversed.
    header["quatern_c"] = 1
    header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = affine[:3, 3]
    for name, value in fields.items():
        header[name] = value
    voxels = data.astype(data.dtype.newbyteorder(order)).tobytes(order="F")
    return header.tobytes() + extension + voxels


SOUND = nifti()
GZIPPED = gzip.compress(SOUND, 1, mtime=0)

Builder = Callable[[Path], Path]


def compressed(content: bytes, name: str = "a.nii.gz") -> Builder:
    return written(gzip.compress(content, 1, mtime=0), name)


def written(content: bytes, name: str = "a.nii.gz") -> Builder:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def changed(**fields: Any) -> Builder:
    return compressed(nifti(**fields))


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def stored(content: bytes) -> bytes:
    """A gzip file without compression, in which a flipped byte is a flipped voxel."""
    return gzip.compress(content, 0, mtime=0)


@functools.cache
def bomb(after: bytes, size: int = GIB) -> bytes:
    """A gzip file of `after` and `size` zeros, made without keeping them in memory."""
    packer = zlib.compressobj(1, wbits=31)
    zeros, parts = bytes(1 << 24), [packer.compress(after)]
    parts += [packer.compress(zeros) for _ in range(size // len(zeros))]
    return b"".join([*parts, packer.flush()])


def series(volumes: int, bvalues: str | None, **fields: Any) -> Builder:
    data = np.stack([DATA + np.int16(k) for k in range(volumes)], axis=3)

    def build(folder: Path) -> Path:
        if bvalues is not None:
            (folder / "a.bval").write_text(bvalues)
        return compressed(nifti(data, **fields))(folder)

    return build


def beside(files: dict[str, str | bytes]) -> Builder:
    """A volume, and what lies beside it."""

    def build(folder: Path) -> Path:
        for name, content in files.items():
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return written(GZIPPED)(folder)

    return build


def pipe_beside(name: str, build: Builder) -> Builder:
    def with_pipe(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return build(folder)

    return with_pipe


def sidecar(**entries: object) -> Builder:
    return beside({"a.json": json.dumps(entries)})


def folder_named_like_a_volume(folder: Path) -> Path:
    (folder / "a.nii.gz").mkdir()
    return folder / "a.nii.gz"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.nii.gz")
    return folder / "a.nii.gz"


def bad_bytes_in_name(folder: Path) -> Path:
    return folder / "a\0.nii.gz"


def extension(size: int, length: int = 32) -> bytes:
    return b"\1\0\0\0" + struct.pack("<ii", size, 6) + bytes(length - 8)


def with_voxels(values: np.ndarray, datatype: int, bitpix: int, **fields: Any) -> Builder:
    return compressed(nifti(np.asfortranarray(values), datatype=datatype, bitpix=bitpix, **fields))


SHAPE = DATA.shape
FLOATS = DATA.astype("<f4")
NAN = float("nan")
INF = float("inf")

REFUSED: dict[str, dict[str, Builder]] = {
    "E-FILE-NAME": {"text": written(b"hello", "a.txt"), "bz2": written(SOUND, "a.nii.bz2")},
    "E-FILE-MISSING": {
        "file": lambda folder: folder / "a.nii.gz",
        "folder": lambda folder: folder / "none" / "a.nii.gz",
    },
    "E-FILE-KIND": {"folder": folder_named_like_a_volume, "pipe": pipe},
    "E-FILE-ACCESS": {"name": bad_bytes_in_name},
    "E-FILE-EMPTY": {"gz": written(b""), "nii": written(b"", "a.nii")},
    "E-NIFTI-GZIP": {
        "not compressed": written(SOUND),
        "compressed": written(GZIPPED, "a.nii"),
        "text": written(b"hello"),
        "method": written(flipped(GZIPPED, 2)),
        "many members": written(gzip.compress(b"") * (1 << 16) + GZIPPED),
    },
    "E-NIFTI-DEFLATE": {"flipped block": written(flipped(GZIPPED, 11))},
    "E-NIFTI-CRC": {
        "flipped voxel": written(flipped(stored(SOUND), 90_000)),
        "flipped CRC": written(flipped(GZIPPED, len(GZIPPED) - 6)),
    },
    "E-NIFTI-LENGTH": {"flipped": written(flipped(GZIPPED, len(GZIPPED) - 2))},
    "E-NIFTI-TRUNCATED": {
        "half": written(GZIPPED[: len(GZIPPED) // 2]),
        "no trailer": written(GZIPPED[:-8]),
        "one byte": written(GZIPPED[:-1]),
        "magic only": written(GZIPPED[:2]),
        "voxels missing": compressed(SOUND[:-9]),
        "plain": written(SOUND[:-1], "a.nii"),
        "second member": written(gzip.compress(SOUND[:500]) + gzip.compress(SOUND[500:])[:-3]),
    },
    "E-NIFTI-TRAILING": {
        "garbage": written(GZIPPED + b"garbage"),
        "one byte": written(GZIPPED + b"\x1f"),
        "zeros": written(GZIPPED + bytes(512)),
    },
    "E-NIFTI-EXCESS": {
        "one byte": compressed(SOUND + b"\0"),
        "plain": written(SOUND + bytes(1000), "a.nii"),
        "bomb behind the image": lambda folder: written(bomb(SOUND))(folder),
        "a second image": written(GZIPPED + GZIPPED),
    },
    "E-NIFTI-HEADER": {
        "text": compressed(b"hello " * 200),
        "short": compressed(SOUND[:300]),
        "analyze": changed(magic=b"\0\0\0\0"),
        "line ends": compressed(nifti(wide=True, eol_check=[10, 10, 26, 10])),
    },
    "E-NIFTI-PAIR": {
        "magic": changed(magic=b"ni1\0"),
        "magic 2": compressed(nifti(wide=True, magic=b"ni2\0")),
        "hdr": written(SOUND, "a.hdr"),
        "img": written(SOUND, "a.img"),
    },
    "E-NIFTI-NDIM": {
        "0": changed(dim=[0, *SHAPE, 1, 1, 1, 1]),
        "9": changed(dim=[9, *SHAPE, 1, 1, 1, 1]),
        "negative": changed(dim=[-3, *SHAPE, 1, 1, 1, 1]),
        "vectors": changed(dim=[5, *SHAPE, 1, 3, 1, 1]),
    },
    "E-NIFTI-DIM": {
        "negative": changed(dim=[3, -60, 70, 20, 1, 1, 1, 1]),
        "zero": changed(dim=[3, 60, 0, 20, 1, 1, 1, 1]),
    },
    "E-NIFTI-FLAT": {"2": changed(dim=[2, 60, 1400, 1, 1, 1, 1, 1]), "1": changed(dim=[1] * 8)},
    "E-NIFTI-SERIES": {"no bval": series(3, None)},
    "E-NIFTI-BVAL": {
        "count": series(3, "0 1000"),
        "text": series(3, "0 a 1000"),
        "none clinical": series(3, "0 50 3000"),
        "nan": series(3, "0 nan 1000"),
        "empty": series(3, ""),
        "pipe": pipe_beside("a.bval", series(3, None)),
        "large": series(3, "0 " * (1 << 16)),
    },
    "E-SIDECAR-KIND": {
        "b0 by bval": beside({"a.bval": "0\n"}),
        "b0 by sidecar": sidecar(DiffusionBValue=0),
        "b0 of a tensor": sidecar(ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "TENSOR_B0"]),
        "adc": sidecar(ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"]),
        "adc of an enhanced image": sidecar(
            ImageType=["DERIVED", "PRIMARY"], ImageTypeText=["DERIVED", "DIFFUSION", "ADC"]
        ),
        "adc that keeps a b-value": beside(
            {"a.bval": "1000", "a.json": json.dumps({"ImageType": ["ADC"], "BValue": 1000})}
        ),
        "fa": sidecar(ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "FA", "ND"]),
        "fa in one string": sidecar(ImageType="DERIVED\\PRIMARY\\DIFFUSION\\FA"),
    },
    "E-NIFTI-DATATYPE": {
        "rgb": changed(datatype=128, bitpix=24),
        "complex": changed(datatype=32, bitpix=64),
        "bits": changed(datatype=1, bitpix=1),
        "unknown": changed(datatype=77, bitpix=16),
        "none": changed(datatype=0, bitpix=0),
    },
    "E-NIFTI-BITPIX": {"32": changed(bitpix=32), "0": changed(bitpix=0)},
    "E-NIFTI-OFFSET": {
        "nan": changed(vox_offset=NAN),
        "infinite": changed(vox_offset=INF),
        "huge": changed(vox_offset=1e30),
        "behind the end": changed(vox_offset=1e6),
        "negative": changed(vox_offset=-352),
        "zero": changed(vox_offset=0),
        "in the header": changed(vox_offset=100),
        "fraction": changed(vox_offset=352.5),
    },
    "E-NIFTI-EXTENSION": {
        "negative": changed(extension=extension(-16)),
        "huge": changed(extension=extension(1 << 30)),
        "zero": changed(extension=extension(0)),
        "cut": changed(extension=b"\1\0\0\0" + bytes(4)),
    },
    "E-NIFTI-SCALE": {"nan": changed(scl_inter=NAN), "infinite": changed(scl_inter=INF)},
    "E-VOXELS-RANGE": {
        "slope 3e38": changed(scl_slope=3e38),
        "slope 1e-38": changed(scl_slope=1e-38),
        "1e31": with_voxels(FLOATS * np.float32(1e29), 16, 32),
    },
    "E-VOXELS-EMPTY": {
        "zero": changed(data=DATA * 0),
        "constant": changed(data=DATA * 0 + 7),
        "nan": with_voxels(FLOATS * NAN, 16, 32),
    },
    "E-NIFTI-UNITS": {"metres": changed(xyzt_units=1), "undefined": changed(xyzt_units=7)},
    "E-NIFTI-PIXDIM": {
        "nan": changed(pixdim=[1, NAN, 2.5, 5, 1, 1, 1, 1]),
        "infinite": changed(pixdim=[1, 2.5, INF, 5, 1, 1, 1, 1]),
        "zero without sform": changed(pixdim=[1, 0, 2.5, 5, 1, 1, 1, 1], sform_code=0),
    },
    "E-NIFTI-CODE": {"sform": changed(sform_code=77), "qform": changed(qform_code=-1)},
    "E-NIFTI-PLACE": {"both codes 0": changed(sform_code=0, qform_code=0)},
    "E-NIFTI-SFORM": {
        "zero": changed(srow_x=[0, 0, 0, 0]),
        "parallel": changed(srow_x=[0, 2.5, 0, 0], srow_y=[0, 2.5, 0, 0]),
        "nan": changed(srow_z=[0, 0, NAN, 0]),
        "infinite": changed(srow_z=[0, 0, 5, INF]),
    },
    "E-NIFTI-QFORM": {
        "no unit": changed(sform_code=0, quatern_b=0.9),
        "nan": changed(sform_code=0, quatern_c=NAN),
        "offset": changed(sform_code=0, qoffset_x=NAN),
        "handedness": changed(sform_code=0, pixdim=[-2, 2.5, 2.5, 5, 1, 1, 1, 1]),
    },
    "E-NIFTI-HANDEDNESS": {
        "qfac": changed(pixdim=[1, 2.5, 2.5, 5, 1, 1, 1, 1]),
        "sform": changed(srow_x=-VOXELS.grid.affine[0]),
    },
    "E-GRID-SPACING": {
        "1 km": changed(srow_z=[0, 0, 1e6, 0]),
        "1 um": changed(srow_z=[0, 0, 1e-3, 0]),
    },
    "E-LIMIT-VOXELS": {"32767 cubed": changed(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])},
    "E-LIMIT-BYTES": {
        "4 GiB and a bomb": lambda folder: written(
            bomb(nifti(dim=[4, 512, 512, 100, 82, 1, 1, 1])[:352])
        )(folder),
    },
    "E-BRAIN-NONE": {"dark": with_voxels(-1 - FLOATS, 16, 32)},
}


def sprinkled(value: float) -> np.ndarray:
    data = FLOATS.copy()
    data[0, 0, :3] = value
    return data


def marked(value: int, side: int) -> np.ndarray:
    """The brain with a central block of another intensity."""
    data = DATA.copy()
    first = 30 - side // 2
    data[first : first + side, first : first + side, 4:16] = value
    return data


def speckled(factor: int) -> np.ndarray:
    """The volume with every eighth voxel brighter."""
    data = DATA.copy()
    data[::2, ::2, ::2] *= factor
    return data


def turned(degrees: float) -> dict[str, float]:
    """The qform's rotation, followed by another one about the third axis."""
    half = np.deg2rad(degrees) / 2
    return {"quatern_b": float(np.sin(half)), "quatern_c": float(np.cos(half))}


WARNED: dict[str, dict[str, Builder]] = {
    "W-SIDECAR": {
        "text in bval": beside({"a.bval": "b = 1000"}),
        "empty bval": beside({"a.bval": ""}),
        "negative bval": beside({"a.bval": "-5"}),
        "infinite bval": beside({"a.bval": "inf"}),
        "three b-values": beside({"a.bval": "0 1000 1000"}),
        "large bval": beside({"a.bval": "0 " * (1 << 16)}),
        "pipe as bval": pipe_beside("a.bval", written(GZIPPED)),
        "pipe as sidecar": pipe_beside("a.json", written(GZIPPED)),
        "no json": beside({"a.json": "{"}),
        "binary": beside({"a.json": b"\xff\xfe\x00\xd8"}),
        "a list": beside({"a.json": "[1000]"}),
        "nested": beside({"a.json": "[" * 100_000}),
        "large sidecar": beside({"a.json": "{}" + " " * (1 << 20)}),
        "negative in sidecar": sidecar(DiffusionBValue=-1),
        "infinite in sidecar": beside({"a.json": '{"DiffusionBValue": Infinity}'}),
        "endless in sidecar": beside({"a.json": '{"DiffusionBValue": 1' + "0" * 400 + "}"}),
        "other b-values": beside({"a.bval": "1000", "a.json": '{"DiffusionBValue": 2000}'}),
        "b0 or not": beside({"a.bval": "0", "a.json": '{"DiffusionBValue": 1000}'}),
        "trace of b0": beside({"a.bval": "0", "a.json": '{"ImageType": ["TRACEW"]}'}),
    },
    "W-INPUT-BVALUE": {
        "high": beside({"a.bval": "2000"}),
        "low": sidecar(DiffusionBValue=500.0),
    },
    "W-NIFTI-VOLUME": {
        "one": series(3, "0 1000 3000"),
        "directions": series(4, "0\t1000 995\n1000"),
    },
    "W-NIFTI-PIXDIM": {
        "zero": changed(pixdim=[-1, 0, 2.5, 5, 1, 1, 1, 1]),
        "negative": changed(pixdim=[-1, -2.5, 2.5, 5, 1, 1, 1, 1]),
        "negative without sform": changed(pixdim=[-1, -2.5, 2.5, 5, 1, 1, 1, 1], sform_code=0),
    },
    "W-NIFTI-SPACING": {"twice": changed(pixdim=[-1, 5, 2.5, 5, 1, 1, 1, 1])},
    "W-NIFTI-QFORM": {"no unit": changed(quatern_b=0.9), "nan": changed(quatern_d=NAN)},
    "W-NIFTI-TRANSFORMS": {"moved": changed(qoffset_x=60), "turned": changed(**turned(3))},
    "W-NIFTI-SHEAR": {"sform": changed(srow_x=[-2.5, 0.5, 0, 73.75], qform_code=0)},
    "W-NIFTI-SCALE": {"nan": changed(scl_slope=NAN), "infinite": changed(scl_slope=INF)},
    "W-VOXELS-LOST": {
        "nan": with_voxels(sprinkled(NAN), 16, 32),
        "infinite": with_voxels(sprinkled(-INF), 16, 32),
    },
    "W-GRID-OUTSIDE": {"wide": changed(srow_x=[-5, 0, 0, 147], srow_y=[0, 5, 0, -172])},
    "W-INPUT-SPACING": {"thick": changed(srow_z=[0, 0, 14, -133])},
    "W-BRAIN-SIZE": {
        "small": changed(
            srow_x=[-1, 0, 0, 30], srow_y=[0, 1, 0, -35], srow_z=[0, 0, 2, -20], qform_code=0
        ),
    },
    "W-MASK-EMPTY": {"no lesion": changed(data=np.minimum(DATA, 100))},
    "W-INPUT-INTENSITY": {
        "negative": changed(data=marked(-50, 16)),
        "bright": changed(data=speckled(4)),
    },
}

ACCEPTED: dict[str, Builder] = {
    "b-value": beside({"a.bval": "1000\n"}),
    "trace": beside(
        {"a.bval": "995", "a.json": json.dumps({"ImageType": ["TRACEW"], "BValue": 1000})}
    ),
    "sidecar of another kind": sidecar(ImageType=7, DiffusionBValue="b1000", EchoTime=0.08),
    "gz": written(GZIPPED),
    "plain": written(SOUND, "a.nii"),
    "upper case": written(GZIPPED, "A.NII.GZ"),
    "spaces and umlauts": written(GZIPPED, "Größe 1 – 脳.nii.gz"),
    "long name": written(GZIPPED, "a" * 225 + ".nii.gz"),
    "two members": written(gzip.compress(SOUND[:1000]) + gzip.compress(SOUND[1000:])),
    "many small members": written(
        b"".join(gzip.compress(SOUND[k : k + 1000]) for k in range(0, len(SOUND), 1000))
    ),
    "an empty last member": written(GZIPPED + gzip.compress(b"")),
    "big endian": compressed(nifti(order=">")),
    "nifti 2": compressed(nifti(wide=True)),
    "nifti 2 big endian": compressed(nifti(wide=True, order=">")),
    "fourth dimension of one": changed(dim=[4, *SHAPE, 1, 1, 1, 1]),
    "slope 0": changed(scl_slope=0, scl_inter=NAN),
    "extension": changed(extension=extension(32)),
    "extension of odd size": changed(extension=extension(28, 28)),
    "sform only": changed(qform_code=0, quatern_b=NAN, pixdim=[1, 2.5, 2.5, 5, 0, 0, 0, 0]),
    "qform only": changed(sform_code=0, srow_x=[NAN] * 4),
    "oblique": changed(
        srow_x=[-2.49, 0.22, 0, 66],
        srow_y=[0.22, 2.49, 0, -92],
        srow_z=[0, 0, 5, -47],
        qform_code=0,
    ),
    "unit unknown": changed(xyzt_units=0),
}
