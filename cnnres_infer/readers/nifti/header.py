"""Parsing and checking of NIfTI headers.

The layouts are those of nifti1.h and nifti2.h (https://nifti.nimh.nih.gov).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

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


def _layout(size: int, fields: dict[str, tuple[str, int]]) -> np.dtype[np.void]:
    """Build a structured dtype from the format and byte offset of each field."""
    formats, offsets = zip(*fields.values(), strict=True)
    return np.dtype(
        {"names": list(fields), "formats": formats, "offsets": offsets, "itemsize": size}
    )


def _transform_layout(
    float_format: str, code_format: str, codes_offset: int, units_offset: int
) -> dict[str, tuple[str, int]]:
    """Formats and offsets of `TRANSFORM_FIELDS`: two codes, then 6 and 12 contiguous floats."""
    code_size = np.dtype(code_format).itemsize
    float_size = np.dtype(float_format).itemsize
    floats_offset = codes_offset + 2 * code_size
    fields = {
        "qform_code": (code_format, codes_offset),
        "sform_code": (code_format, codes_offset + code_size),
    }
    for i, name in enumerate(TRANSFORM_FIELDS[4:10]):
        fields[name] = (float_format, floats_offset + i * float_size)
    for row, name in enumerate(TRANSFORM_FIELDS[10:]):
        fields[name] = (f"(4,){float_format}", floats_offset + (6 + 4 * row) * float_size)
    fields["xyzt_units"] = ("u1" if code_format == "<i2" else "<i4", units_offset)
    return fields


_NIFTI1_BYTES, _NIFTI2_BYTES = 348, 540
HEADER_SIZES = (_NIFTI1_BYTES, _NIFTI2_BYTES)
MAX_HEADER_BYTES = _NIFTI2_BYTES
_NIFTI1 = _layout(
    _NIFTI1_BYTES,
    {
        "dim": ("(8,)<i2", 40),
        "datatype": ("<i2", 70),
        "bitpix": ("<i2", 72),
        "pixdim": ("(8,)<f4", 76),
        "vox_offset": ("<f4", 108),
        "scl_slope": ("<f4", 112),
        "scl_inter": ("<f4", 116),
        "magic": ("S4", 344),
        **_transform_layout("<f4", "<i2", 252, 123),
    },
)
_NIFTI2 = _layout(
    _NIFTI2_BYTES,
    {
        "magic": ("S8", 4),
        "datatype": ("<i2", 12),
        "bitpix": ("<i2", 14),
        "dim": ("(8,)<i8", 16),
        "pixdim": ("(8,)<f8", 104),
        "vox_offset": ("<i8", 168),
        "scl_slope": ("<f8", 176),
        "scl_inter": ("<f8", 184),
        **_transform_layout("<f8", "<i4", 344, 500),
    },
)
_MAGIC = {_NIFTI1_BYTES: b"n+1", _NIFTI2_BYTES: b"n+2\0\r\n\x1a\n"}
_PAIR_MAGIC = (b"ni1", b"ni2\0\r\n\x1a\n")
_DTYPES = {
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
_UNSUPPORTED_DATATYPES = {
    1: "single bits",
    32: "complex numbers",
    128: "colours",
    1536: "128-bit numbers",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "colours",
}
_UNITS = {1: "metres", 3: "micrometres"}
_REWRITE = "write the file again with the program that created it"


@dataclass(frozen=True, eq=False)
class Header:
    """A parsed header whose fields are consistent.

    Attributes
    ----------
    size
        Size of the header itself in bytes: 348 (NIfTI-1) or 540 (NIfTI-2).
    big_endian
        Whether the file is big-endian.
    shape
        Number of voxels of a volume along each axis.
    volumes
        Number of volumes in the file.
    dtype
        Type of the stored voxels, in the file's byte order.
    scale
        Slope and intercept from stored to actual values; None if they are the
        same.
    offset
        Start of the voxel data, in bytes.
    end
        End of the voxel data, in bytes.
    transforms
        `TRANSFORM_FIELDS`, unchanged, in native byte order.
    notices
        What is unusual about the header.
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
    """Parse a header and check that its fields are consistent.

    Parameters
    ----------
    raw
        The first `MAX_HEADER_BYTES` bytes of the decompressed file, or the whole
        file if it is shorter.
    name
        Name of the file in messages.
    limits
        The maximum size that the header may declare.

    Raises
    ------
    VolumeError
        If this is not the header of a NIfTI file, or its fields are invalid or
        contradict each other.
    LimitError
        If the declared size exceeds a limit.
    GeometryError
        If lengths are not in mm.
    """
    size, big_endian = _version(raw, name)
    layout = _NIFTI1 if size == _NIFTI1_BYTES else _NIFTI2
    stored = np.frombuffer(raw[:size], layout.newbyteorder(">") if big_endian else layout)[0]
    fields: Fields = {key: np.array(stored[key]) for key in layout.names or ()}
    fields = {key: value.astype(value.dtype.newbyteorder("=")) for key, value in fields.items()}
    _check_magic(fields["magic"].item(), size, name)
    shape, volumes = _dimensions(fields["dim"].tolist(), name)
    dtype = _voxel_dtype(int(fields["datatype"]), int(fields["bitpix"]), name)
    offset = _voxel_offset(float(fields["vox_offset"]), size, name, limits)
    voxels = math.prod(shape)
    end = offset + voxels * volumes * dtype.itemsize
    limits.check_size(name, shape, end, resident_bytes())
    check_units(int(fields["xyzt_units"]), name)
    scale, notices = _scale(float(fields["scl_slope"]), float(fields["scl_inter"]), name)
    transforms = {key: fields[key] for key in TRANSFORM_FIELDS}
    dtype = dtype.newbyteorder(">" if big_endian else "<")
    return Header(size, big_endian, shape, volumes, dtype, scale, offset, end, transforms, notices)


def check_extensions(raw: bytes, header: Header, name: str) -> None:
    """Check that the header extensions fit between the header and the voxel data.

    Parameters
    ----------
    raw
        The file's bytes up to the voxel data.
    header
        The parsed header.
    name
        Name of the file in messages.

    Raises
    ------
    VolumeError
        If an extension has an impossible size.
    """
    position = header.size + 4
    if not raw[header.size]:
        return
    order: Literal["little", "big"] = "big" if header.big_endian else "little"
    while position < header.offset:
        # An extension has 8 bytes or more, so that what is shorter holds no size either.
        length = int.from_bytes(raw[position : position + 4], order, signed=True)
        available = header.offset - position
        if not 8 <= length <= available:
            raise VolumeError(
                f"{name}: a header extension of {length} bytes, but there is room for "
                f"{available}; {_REWRITE}",
                code=ErrorCode.NIFTI_EXTENSION,
            )
        position += length


def _version(raw: bytes, name: str) -> tuple[int, bool]:
    """Size of the header, which identifies the version, and whether it is big-endian."""
    for size in HEADER_SIZES:
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
    if magic in _PAIR_MAGIC:
        raise VolumeError(
            f"{name}: the header of a pair of files (.hdr, .img); convert them to one .nii.gz",
            code=ErrorCode.NIFTI_PAIR,
        )
    raise VolumeError(
        f"{name}: an Analyze or damaged header (magic {magic!r}); convert it to NIfTI-1",
        code=ErrorCode.NIFTI_HEADER,
    )


def _dimensions(dim: list[int], name: str) -> tuple[tuple[int, int, int], int]:
    """Shape of a volume, and the number of volumes."""
    ndim = dim[0]
    if not 1 <= ndim <= 7:
        raise VolumeError(
            f"{name}: the header declares {ndim} dimensions, not 1 to 7; {_REWRITE}",
            code=ErrorCode.NIFTI_NDIM,
        )
    if ndim < 3:
        raise VolumeError(
            f"{name}: an image of {ndim} dimensions; give a 3-D volume", code=ErrorCode.NIFTI_FLAT
        )
    extents = dim[1 : ndim + 1]
    if min(extents) < 1:
        raise VolumeError(
            f"{name}: dimensions {extents} are not all positive; {_REWRITE}",
            code=ErrorCode.NIFTI_DIM,
        )
    if any(n > 1 for n in extents[4:]):
        raise VolumeError(
            f"{name}: an image of {ndim} dimensions ({extents}); give a 3-D volume",
            code=ErrorCode.NIFTI_NDIM,
        )
    return (extents[0], extents[1], extents[2]), extents[3] if ndim > 3 else 1


def _voxel_dtype(datatype: int, bitpix: int, name: str) -> np.dtype[Any]:
    if datatype not in _DTYPES:
        description = _UNSUPPORTED_DATATYPES.get(datatype, "unknown")
        raise VolumeError(
            f"{name}: voxels of type {datatype} ({description}); convert them to real numbers",
            code=ErrorCode.NIFTI_DATATYPE,
        )
    dtype = np.dtype(_DTYPES[datatype])
    if bitpix != 8 * dtype.itemsize:
        raise VolumeError(
            f"{name}: voxels of type {datatype} have {8 * dtype.itemsize} bits, "
            f"but the header says {bitpix}; {_REWRITE}",
            code=ErrorCode.NIFTI_BITPIX,
        )
    return dtype


def _voxel_offset(offset: float, size: int, name: str, limits: Limits) -> int:
    if not size + 4 <= offset <= limits.max_bytes or offset != int(offset):
        raise VolumeError(
            f"{name}: the header says that the voxel data start at byte {offset:g}, but they "
            f"cannot start before byte {size + 4} or after byte {limits.max_bytes}; {_REWRITE}",
            code=ErrorCode.NIFTI_OFFSET,
        )
    return int(offset)


def check_units(units: int, name: str) -> None:
    """Check that lengths are in mm.

    Parameters
    ----------
    units
        The field ``xyzt_units``; lengths without a unit are taken as mm.
    name
        Name of the file in messages.

    Raises
    ------
    GeometryError
        If the unit is another one, or undefined.
    """
    code = units & 7
    if code not in (0, 2):
        unit = _UNITS.get(code, f"an undefined unit ({code})")
        raise GeometryError(
            f"{name}: lengths in the header are in {unit}; convert them to mm",
            code=ErrorCode.NIFTI_UNITS,
        )


def _scale(
    slope: float, intercept: float, name: str
) -> tuple[tuple[float, float] | None, tuple[Notice, ...]]:
    """Slope and intercept, or None if the stored values need no scaling."""
    if not math.isfinite(slope):
        return None, (Notice(WarningCode.NIFTI_SCALE, f"the scale factor {slope} was ignored"),)
    if not slope:
        return None, ()
    if not math.isfinite(intercept):
        raise VolumeError(
            f"{name}: the intercept (scl_inter) is {intercept}; {_REWRITE}",
            code=ErrorCode.NIFTI_SCALE,
        )
    return None if (slope, intercept) == (1, 0) else (slope, intercept), ()
