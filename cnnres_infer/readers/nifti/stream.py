"""Reading NIfTI files to their end, and verifying them before they are used.

A file is decompressed in chunks, and never beyond the size that its header declares.
What is parsed are the very bytes that were verified. ISA-L decompresses about twice as
fast as zlib; what is refused is read again with zlib, which says what is damaged.
"""

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, cast

from isal import isal_zlib

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import InputError, LimitError, VolumeError
from cnnres_infer.host.deadline import check_time
from cnnres_infer.host.files import NotAFileError, open_regular
from cnnres_infer.limits import Limits
from cnnres_infer.readers.nifti.header import (
    MAX_HEADER_BYTES,
    Header,
    check_extensions,
    parse_header,
)

SUFFIXES = (".nii.gz", ".nii")
GZIP = b"\x1f\x8b"
# Its stub declares an instance.
IsalError = cast(type[Exception], isal_zlib.error)
# The byte of a gzip header that holds its flags, and those that must not be set.
_FLAGS, _RESERVED = slice(3, 4), 0xE0
# zlib's `wbits` for a gzip stream with the largest window.
_GZIP_WBITS = 31
_READ_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20
# Each gzip member costs a copy of the bytes read; block compressors write one per 64 KiB.
_MAX_MEMBERS = 1 << 16
_COPY_AGAIN = "copy it again from its source"


@dataclass(frozen=True, eq=False)
class VerifiedStream:
    """The complete content of a NIfTI file, consistent with its header.

    Attributes
    ----------
    content
        The decompressed bytes, in memory, positioned at the start.
    header
        The parsed header.
    """

    content: io.BytesIO
    header: Header


def volume_name(path: Path) -> str:
    """File name without its NIfTI suffix.

    Raises
    ------
    VolumeError
        If the name does not end in ``.nii`` or ``.nii.gz``, or nothing is there
        that has another name.
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    if path.suffix.lower() in (".hdr", ".img"):
        raise VolumeError(
            f"{path}: one of a pair of files, not a NIfTI file; convert both to one .nii.gz",
            code=ErrorCode.NIFTI_PAIR,
        )
    with suppress(OSError):
        if not path.exists():
            raise VolumeError(f"{path}: no such file or folder", code=ErrorCode.FILE_MISSING)
    raise VolumeError(
        f"{path}: not a NIfTI file name; give a file whose name ends in .nii or .nii.gz",
        code=ErrorCode.FILE_NAME,
    )


def read_verified(path: Path, limits: Limits) -> VerifiedStream:
    """Read a NIfTI file completely and verify it.

    Raises
    ------
    VolumeError
        If the file cannot be read, is damaged, or contradicts its header.
    LimitError
        If its size, or the size that its header declares, exceeds a limit.
    GeometryError
        If lengths are not in mm.
    """
    volume_name(path)
    try:
        with open_regular(path) as file:
            _check_size(os.fstat(file.fileno()).st_size, path, limits)
            with suppress(IsalError, InputError):
                return _verify(_chunks(file, path, isal_zlib), path, limits)
            file.seek(0)
            return _verify(_chunks(file, path, zlib), path, limits)
    except NotAFileError as error:
        raise VolumeError(f"{path}: {error.strerror}", code=ErrorCode.FILE_KIND) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VolumeError(f"{path}: {error.strerror}", code=ErrorCode.FILE_MISSING) from error
    except OSError as error:
        raise VolumeError(
            f"{path}: {error.strerror or error}", code=ErrorCode.FILE_ACCESS
        ) from error


def _check_size(size: int, path: Path, limits: Limits) -> None:
    if not size:
        raise VolumeError(f"{path}: the file is empty; {_COPY_AGAIN}", code=ErrorCode.FILE_EMPTY)
    if size > limits.max_bytes:
        raise LimitError(
            f"{path}: {size} bytes, more than `max_bytes` ({limits.max_bytes})",
            code=ErrorCode.LIMIT_BYTES,
        )


def _verify(chunks: Iterator[bytes], path: Path, limits: Limits) -> VerifiedStream:
    content, name = io.BytesIO(), str(path)
    header = None
    for chunk in chunks:
        check_time()
        content.write(chunk)
        if header is None and content.tell() >= MAX_HEADER_BYTES:
            with content.getbuffer() as raw:
                header = parse_header(bytes(raw[:MAX_HEADER_BYTES]), name, limits)
        if header is not None and content.tell() > header.end:
            raise _excess(path, header)
    if header is None:
        header = parse_header(content.getvalue(), name, limits)
    _check_length(content.tell(), header, path)
    with content.getbuffer() as raw:
        check_extensions(bytes(raw[: header.offset]), header, name)
    content.seek(0)
    return VerifiedStream(content, header)


def _check_length(length: int, header: Header, path: Path) -> None:
    if length < header.offset:
        raise VolumeError(
            f"{path}: ends at byte {length}, before its voxel data at byte {header.offset}; "
            f"{_COPY_AGAIN}",
            code=ErrorCode.NIFTI_OFFSET,
        )
    if length < header.end:
        raise VolumeError(
            f"{path}: {header.end - length} bytes of voxel data are missing; {_COPY_AGAIN}",
            code=ErrorCode.NIFTI_TRUNCATED,
        )
    if length > header.end:
        raise _excess(path, header)


def _excess(path: Path, header: Header) -> VolumeError:
    return VolumeError(
        f"{path}: more than the {header.end} bytes that its header describes; correct the header, "
        "or remove what was appended",
        code=ErrorCode.NIFTI_EXCESS,
    )


def _chunks(file: BinaryIO, path: Path, codec: ModuleType) -> Iterator[bytes]:
    """Content of a file, which must be compressed as its name says, decompressed by a codec."""
    chunk = file.read(_READ_BYTES)
    compressed = path.name.lower().endswith(".gz")
    if chunk.startswith(GZIP) != compressed:
        found = "not compressed with gzip" if compressed else "compressed with gzip"
        suffix = ".nii" if compressed else ".nii.gz"
        raise VolumeError(
            f"{path}: {found}, which contradicts its name; if it is intact, rename it to {suffix}",
            code=ErrorCode.NIFTI_GZIP,
        )
    if compressed:
        yield from _decompress(file, chunk, path, codec)
        return
    while chunk:
        yield chunk
        chunk = file.read(_CHUNK_BYTES)


def _decompress(file: BinaryIO, pending: bytes, path: Path, codec: ModuleType) -> Iterator[bytes]:
    """Decompress all gzip members of a file whose first bytes, `pending`, were already read."""
    for _ in range(_MAX_MEMBERS):
        if int.from_bytes(pending[_FLAGS]) & _RESERVED:
            # RFC 1952 demands it, and ISA-L does not look.
            raise VolumeError(
                f"{path}: damaged (unknown flags in the gzip header); {_COPY_AGAIN}",
                code=ErrorCode.NIFTI_GZIP,
            )
        member = codec.decompressobj(wbits=_GZIP_WBITS)
        while not member.eof:
            compressed = pending or file.read(_READ_BYTES)
            try:
                chunk = member.decompress(compressed, _CHUNK_BYTES)
            except zlib.error as error:
                raise VolumeError(
                    f"{path}: damaged ({error}); {_COPY_AGAIN}", code=_zlib_code(error)
                ) from error
            if not compressed and not chunk and not member.eof:
                raise VolumeError(
                    f"{path}: the compressed data are truncated; {_COPY_AGAIN}",
                    code=ErrorCode.NIFTI_TRUNCATED,
                )
            pending = member.unconsumed_tail
            yield chunk
        pending = member.unused_data
        if len(pending) < _FLAGS.stop:
            pending += file.read(_READ_BYTES)
        if not pending:
            return
        if not pending.startswith(GZIP):
            raise VolumeError(
                f"{path}: extra bytes after the compressed data; {_COPY_AGAIN}",
                code=ErrorCode.NIFTI_TRAILING,
            )
    raise VolumeError(
        f"{path}: more than {_MAX_MEMBERS} gzip members; compress it again",
        code=ErrorCode.NIFTI_GZIP,
    )


def _zlib_code(error: zlib.error) -> ErrorCode:
    """Classify the damage by zlib's message; all its errors have the same type."""
    text = str(error)
    if "data check" in text:
        return ErrorCode.NIFTI_CRC
    if "length check" in text:
        return ErrorCode.NIFTI_LENGTH
    return ErrorCode.NIFTI_GZIP if "header" in text or "method" in text else ErrorCode.NIFTI_DEFLATE
