"""The NIfTI header, read from its bytes and checked before anything is made of it.

Layouts after nifti1.h and nifti2.h (https://nifti.nimh.nih.gov).
"""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode, Notice, WarningCode
from cnnres_infer.errors import GeometryError, VolumeError
from cnnres_infer.host.machine import resident_bytes
from cnnres_infer.limits import Limits

Fields: TypeAlias = dict[str, NDArray[np.generic]]

TRANSFORM_FIELDS = (
    "pixdim",
    "xyzt_units",
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
)


def _layout(size: int, places: dict[str, tuple[str, int]]) -> np.dtype[np.void]:
    formats, offsets = zip(*places.values(), strict=True)
    return np.dtype(
        {"names": list(places), "formats": formats, "offsets": offsets, "itemsize": size}
    )


def _transforms(number: str, code: str, start: int, units: int) -> dict[str, tuple[str, int]]:
    """Where both transforms stand: codes, then 6 and 12 numbers without a gap."""
    codes = np.dtype(code).itemsize
    width = np.dtype(number).itemsize
    at = start + 2 * codes
    places = {"qform_code": (code, start), "sform_code": (code, start + codes)}
    for place, name in enumerate(TRANSFORM_FIELDS[4:10]):
        places[name] = (number, at + place * width)
    for row, name in enumerate(TRANSFORM_FIELDS[10:]):
        places[name] = (f"(4,){number}", at + (6 + 4 * row) * width)
    places["xyzt_units"] = ("u1" if code == "<i2" else "<i4", units)
    return places


_NIFTI1 = _layout(
    348,
    {
        "dim": ("(8,)<i2", 40),
        "datatype": ("<i2", 70),
        "bitpix": ("<i2", 72),
        "pixdim": ("(8,)<f4", 76),
        "vox_offset": ("<f4", 108),
        "scl_slope": ("<f4", 112),
        "scl_inter": ("<f4", 116),
        "magic": ("S4", 344),
        **_transforms("<f4", "<i2", 252, 123),
    },
)
_NIFTI2 = _layout(
    540,
    {
        "magic": ("S8", 4),
        "datatype": ("<i2", 12),
        "bitpix": ("<i2", 14),
        "dim": ("(8,)<i8", 16),
        "pixdim": ("(8,)<f8", 104),
        "vox_offset": ("<i8", 168),
        "scl_slope": ("<f8", 176),
        "scl_inter": ("<f8", 184),
        **_transforms("<f8", "<i4", 344, 500),
    },
)
_MAGIC = {348: b"n+1", 540: b"n+2\0\r\n\x1a\n"}
_PAIR = (b"ni1", b"ni2\0\r\n\x1a\n")
_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_NO_NUMBERS = {
    1: "single bits",
    32: "complex numbers",
    128: "colours",
    1536: "128-bit numbers",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "colours",
}
_UNITS = {1: "metres", 3: "micrometres"}
HEADER_BYTES = 540


@dataclass(frozen=True, eq=False)
class Header:
    """A header whose fields agree with each other.

    Attributes
    ----------
    size
        Bytes of the header itself: 348 (NIfTI-1) or 540 (NIfTI-2).
    big_endian
        Byte order of the file.
    shape
        Voxels along each axis.
    volumes
        How many volumes follow each other.
    dtype
        Of the stored voxels, in the file's byte order.
    scale
        Factor and summand that make the voxels' values of what is stored;
        None where that is the value already.
    offset
        Where the voxels begin, in bytes.
    end
        Where they end.
    transforms
        The fields that place the volume, as they stand in the file.
    notices
        What is odd.
    """

    size: int
    big_endian: bool
    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype[Any]
    scale: tuple[float, float] | None
    offset: int
    end: int
    transforms: Fields
    notices: tuple[Notice, ...]


def parse_header(raw: bytes, name: str, limits: Limits) -> Header:
    """Read a header and check its fields against each other.

    Parameters
    ----------
    raw
        The first bytes of the file, inflated: `HEADER_BYTES` or all there are.
    name
        What to call the file in messages.
    limits
        What it may claim.

    Raises
    ------
    VolumeError
        If it is no header of a NIfTI file, or its fields contradict each other.
    LimitError
        If it claims more than the limits.
    GeometryError
        If its lengths are not in mm.
    """
    size, big_endian = _version(raw, name)
    layout = _NIFTI1 if size == 348 else _NIFTI2
    stored = np.frombuffer(raw[:size], layout.newbyteorder(">") if big_endian else layout)[0]
    fields: Fields = {key: np.array(stored[key]) for key in layout.names or ()}
    fields = {key: value.astype(value.dtype.newbyteorder("=")) for key, value in fields.items()}
    _check_magic(fields["magic"].item(), size, name)
    shape, volumes = _dimensions(fields["dim"].tolist(), name)
    kind = _kind(int(fields["datatype"]), int(fields["bitpix"]), name)
    offset = _offset(float(fields["vox_offset"]), size, name, limits)
    voxels = math.prod(shape)
    end = offset + voxels * volumes * kind.itemsize
    limits.check_header(name, voxels, end, resident_bytes())
    check_units(int(fields["xyzt_units"]), name)
    scale, notices = _scale(float(fields["scl_slope"]), float(fields["scl_inter"]), name)
    transforms = {key: fields[key] for key in TRANSFORM_FIELDS}
    dtype = kind.newbyteorder(">" if big_endian else "<")
    return Header(size, big_endian, shape, volumes, dtype, scale, offset, end, transforms, notices)


def check_extensions(raw: bytes, header: Header, name: str) -> None:
    """Refuse header extensions that do not fit between header and voxels.

    Parameters
    ----------
    raw
        The file's bytes up to the voxels.

    Raises
    ------
    VolumeError
        If one is of impossible size.
    """
    at = header.size + 4
    if not raw[header.size]:
        return
    while at < header.offset:
        length = int(np.frombuffer(raw[at : at + 4], ">i4" if header.big_endian else "<i4")[0])
        if not 8 <= length <= header.offset - at:
            raise VolumeError(
                f"{name}: a header extension of {length} bytes where {header.offset - at} are; "
                "write the file again with its source program",
                code=ErrorCode.NIFTI_EXTENSION,
            )
        at += length


def _version(raw: bytes, name: str) -> tuple[int, bool]:
    for size in (348, 540):
        for big_endian in (False, True):
            if len(raw) >= size and raw[:4] == size.to_bytes(4, "big" if big_endian else "little"):
                return size, big_endian
    raise VolumeError(
        f"{name}: no NIfTI header; convert the image to NIfTI-1 (.nii.gz)",
        code=ErrorCode.NIFTI_HEADER,
    )


def _check_magic(magic: bytes, size: int, name: str) -> None:
    if magic == _MAGIC[size]:
        return
    if magic in _PAIR:
        raise VolumeError(
            f"{name}: the header of a pair of files (.hdr, .img); convert it to one .nii.gz",
            code=ErrorCode.NIFTI_PAIR,
        )
    raise VolumeError(
        f"{name}: an Analyze or broken header (magic {magic!r}); convert it to NIfTI-1",
        code=ErrorCode.NIFTI_HEADER,
    )


def _dimensions(dim: list[int], name: str) -> tuple[tuple[int, int, int], int]:
    count = dim[0]
    if not 1 <= count <= 7:
        raise VolumeError(
            f"{name}: the header claims {count} dimensions", code=ErrorCode.NIFTI_NDIM
        )
    if count < 3:
        raise VolumeError(
            f"{name}: an image of {count} dimensions; give a 3-D volume", code=ErrorCode.NIFTI_FLAT
        )
    extents = dim[1 : count + 1]
    if min(extents) < 1:
        raise VolumeError(
            f"{name}: dimensions {extents} are not all positive", code=ErrorCode.NIFTI_DIM
        )
    if any(n > 1 for n in extents[4:]):
        raise VolumeError(
            f"{name}: an image of {count} dimensions ({extents}); give a 3-D volume",
            code=ErrorCode.NIFTI_NDIM,
        )
    return (extents[0], extents[1], extents[2]), extents[3] if count > 3 else 1


def _kind(datatype: int, bitpix: int, name: str) -> np.dtype[Any]:
    if datatype not in _TYPES:
        what = _NO_NUMBERS.get(datatype, "unknown")
        raise VolumeError(
            f"{name}: voxels of type {datatype} ({what}); one real number each is needed",
            code=ErrorCode.NIFTI_DATATYPE,
        )
    kind = np.dtype(_TYPES[datatype])
    if bitpix != 8 * kind.itemsize:
        raise VolumeError(
            f"{name}: voxels of type {datatype} have {8 * kind.itemsize} bits, "
            f"but the header says {bitpix}",
            code=ErrorCode.NIFTI_BITPIX,
        )
    return kind


def _offset(offset: float, size: int, name: str, limits: Limits) -> int:
    if not size + 4 <= offset <= limits.max_bytes or offset != int(offset):
        raise VolumeError(
            f"{name}: the header says that the voxels begin at byte {offset:g}; "
            f"{size + 4} is the first that can be",
            code=ErrorCode.NIFTI_OFFSET,
        )
    return int(offset)


def check_units(units: int, name: str) -> None:
    """Refuse lengths in another unit than mm (or none named), by the field ``xyzt_units``.

    Raises
    ------
    GeometryError
        If the unit is another, or not defined.
    """
    code = units & 7
    if code not in (0, 2):
        unit = _UNITS.get(code, f"a unit that is not defined ({code})")
        raise GeometryError(
            f"{name}: the header gives lengths in {unit}; convert it to mm",
            code=ErrorCode.NIFTI_UNITS,
        )


def _scale(
    slope: float, intercept: float, name: str
) -> tuple[tuple[float, float] | None, tuple[Notice, ...]]:
    if not math.isfinite(slope):
        return None, (Notice(WarningCode.NIFTI_SCALE, f"the scale factor {slope} was left out"),)
    if not slope:
        return None, ()
    if not math.isfinite(intercept):
        raise VolumeError(
            f"{name}: the voxels are to be shifted by {intercept}; write the file again",
            code=ErrorCode.NIFTI_SCALE,
        )
    return None if (slope, intercept) == (1, 0) else (slope, intercept), ()
