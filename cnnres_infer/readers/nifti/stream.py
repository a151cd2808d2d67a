"""NIfTI files, read to their end and verified before they are parsed.

A file is inflated once, piece by piece, and never past what its header claims;
the bytes that passed are what is parsed.
"""

import io
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import LimitError, VolumeError
from cnnres_infer.limits import Limits
from cnnres_infer.readers.nifti.header import HEADER_BYTES, Header, check_extensions, parse_header

SUFFIXES = (".nii.gz", ".nii")
GZIP = b"\x1f\x8b"
_GZIP_WITH_CRC = 31
_CHUNK = 1 << 16
_PIECE = 1 << 20
# Every member costs a copy of a chunk; block-wise compressors make one per 64 KiB.
_MOST_MEMBERS = 1 << 16
_AGAIN = "copy it again from its source"


@dataclass(frozen=True, eq=False)
class VerifiedStream:
    """The content of a NIfTI file, whole and in agreement with its header.

    Attributes
    ----------
    content
        The inflated bytes, in memory, from their start.
    header
        What they say of themselves.
    """

    content: io.BytesIO
    header: Header


def stem(path: Path) -> str:
    """Name of a volume without its suffixes, in lower case; never fails."""
    return path.name.lower().removesuffix(".gz").removesuffix(".nii")


def volume_name(path: Path) -> str:
    """File name without its NIfTI suffix.

    Raises
    ------
    VolumeError
        If the suffix is not one of NIfTI's.
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    if path.suffix.lower() in (".hdr", ".img"):
        raise VolumeError(
            f"{path}: one of a pair of files, not a NIfTI file; convert both to one .nii.gz",
            code=ErrorCode.NIFTI_PAIR,
        )
    raise VolumeError(
        f"{path}: not a NIfTI file name; give a file that ends in .nii or .nii.gz",
        code=ErrorCode.FILE_NAME,
    )


def read_verified(path: Path, limits: Limits) -> VerifiedStream:
    """Read a NIfTI file completely, and refuse it if anything in it is amiss.

    Raises
    ------
    VolumeError
        If it cannot be read, is damaged, or contradicts its header.
    LimitError
        If it holds or claims more than the limits.
    GeometryError
        If its lengths are not in mm.
    """
    volume_name(path)
    _check_kind(path, limits)
    try:
        with path.open("rb") as file:
            return _verified(_pieces(file, path), path, limits)
    except OSError as error:
        raise VolumeError(
            f"{path}: {error.strerror or error}", code=ErrorCode.FILE_ACCESS
        ) from error


def _check_kind(path: Path, limits: Limits) -> None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VolumeError(f"{path}: {error.strerror}", code=ErrorCode.FILE_MISSING) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise VolumeError(f"{path}: {reason}", code=ErrorCode.FILE_ACCESS) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "device or pipe"
        raise VolumeError(f"{path}: a {kind}; give a file", code=ErrorCode.FILE_KIND)
    if not status.st_size:
        raise VolumeError(f"{path}: the file is empty; {_AGAIN}", code=ErrorCode.FILE_EMPTY)
    if status.st_size > limits.max_bytes:
        raise LimitError(
            f"{path}: {status.st_size} bytes, more than `max_bytes={limits.max_bytes}`",
            code=ErrorCode.LIMIT_BYTES,
        )


def _verified(pieces: Iterator[bytes], path: Path, limits: Limits) -> VerifiedStream:
    content, name = io.BytesIO(), str(path)
    header = None
    for piece in pieces:
        content.write(piece)
        if header is None and content.tell() >= HEADER_BYTES:
            header = parse_header(content.getvalue()[:HEADER_BYTES], name, limits)
        if header is not None and content.tell() > header.end:
            raise VolumeError(
                f"{path}: more than the {header.end} bytes that its header describes; "
                "the header is wrong, or something was added",
                code=ErrorCode.NIFTI_EXCESS,
            )
    length = content.tell()
    if header is None:
        header = parse_header(content.getvalue(), name, limits)
    if length < header.offset:
        raise VolumeError(
            f"{path}: ends at byte {length}, before its voxels at {header.offset}",
            code=ErrorCode.NIFTI_OFFSET,
        )
    if length != header.end:
        fault, code = (
            ("of voxels are missing", ErrorCode.NIFTI_TRUNCATED)
            if length < header.end
            else ("are too many", ErrorCode.NIFTI_EXCESS)
        )
        raise VolumeError(f"{path}: {abs(header.end - length)} bytes {fault}; {_AGAIN}", code=code)
    with content.getbuffer() as raw:
        check_extensions(bytes(raw[: header.offset]), header, name)
    content.seek(0)
    return VerifiedStream(content, header)


def _pieces(file: BinaryIO, path: Path) -> Iterator[bytes]:
    first = file.read(_CHUNK)
    compressed = path.name.lower().endswith(".gz")
    if first.startswith(GZIP) != compressed:
        fault = "not compressed with gzip" if compressed else "compressed with gzip"
        right = ".nii" if compressed else ".nii.gz"
        raise VolumeError(
            f"{path}: {fault}, against its name; if it is sound, name it {right}",
            code=ErrorCode.NIFTI_GZIP,
        )
    if compressed:
        yield from _inflated(file, first, path)
        return
    while first:
        yield first
        first = file.read(_PIECE)


def _inflated(file: BinaryIO, pending: bytes, path: Path) -> Iterator[bytes]:
    for _ in range(_MOST_MEMBERS):
        member = zlib.decompressobj(wbits=_GZIP_WITH_CRC)
        while not member.eof:
            fed = pending or file.read(_CHUNK)
            try:
                piece = member.decompress(fed, _PIECE)
            except zlib.error as error:
                raise VolumeError(
                    f"{path}: damaged ({error}); {_AGAIN}", code=_zlib_code(error)
                ) from error
            if not fed and not piece and not member.eof:
                raise VolumeError(
                    f"{path}: the compressed data end too early; {_AGAIN}",
                    code=ErrorCode.NIFTI_TRUNCATED,
                )
            pending = member.unconsumed_tail
            yield piece
        pending = member.unused_data
        if len(pending) < len(GZIP):
            pending += file.read(_CHUNK)
        if not pending:
            return
        if not pending.startswith(GZIP):
            raise VolumeError(
                f"{path}: something follows the compressed data; {_AGAIN}",
                code=ErrorCode.NIFTI_TRAILING,
            )
    raise VolumeError(
        f"{path}: compressed in more than {_MOST_MEMBERS} parts; compress it again",
        code=ErrorCode.NIFTI_GZIP,
    )


def _zlib_code(error: zlib.error) -> ErrorCode:
    """Tell by zlib's message what is damaged: only that parts the four."""
    text = str(error)
    if "data check" in text:
        return ErrorCode.NIFTI_CRC
    if "length check" in text:
        return ErrorCode.NIFTI_LENGTH
    return ErrorCode.NIFTI_GZIP if "header" in text or "method" in text else ErrorCode.NIFTI_DEFLATE
