"""Parsing DICOM files with pydicom, bounded in memory."""

import io
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING, Any

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import LimitError, VolumeError
from cnnres_infer.limits import Limits
from cnnres_infer.readers.dicom.files import StudyFile

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
# The length of the file meta information follows its own tag, VR and length; the rest follows it.
_META_LENGTH_AT, _META_AT = 140, 144
_MAX_META_BYTES = 1 << 12

_quiet = RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings: what is unusual but can be read is judged from the values.

    pydicom's warnings quote them, and they may be of a patient.
    """
    # Filters of warnings are the process's own: two threads would restore each other's.
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def require_pydicom() -> None:
    """Raise `VolumeError` that names the extra, if pydicom is not installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise VolumeError(
            f"reading DICOM needs pydicom ({error}); run pip install 'cnnres-infer[dicom]'",
            code=ErrorCode.DICOM_EXTRA,
        ) from error


def parse(
    file: StudyFile, limits: Limits, *, pixels: bool = False, only: Sequence[str] | None = None
) -> "FileDataset":
    """Parse a file.

    Parameters
    ----------
    file
        The file.
    limits
        The largest size of the file, inflated.
    pixels
        Whether the pixel data are read as well.
    only
        Keywords of the attributes to read; None for all.

    Raises
    ------
    VolumeError
        If it is not valid DICOM.
    LimitError
        If it exceeds a limit.
    """
    import pydicom

    options: dict[str, Any] = {
        "stop_before_pixels": not pixels,
        "force": True,
        "specific_tags": None if only is None else list(only),
    }
    try:
        with file.open(limits) as stream:
            head = stream.read(_MAX_META_BYTES)
            stream.seek(0)
            if _DEFLATED in head:
                return _inflated(stream, file, limits, options)
            return pydicom.dcmread(stream, **options)
    except (VolumeError, LimitError):
        raise
    except Exception as error:
        raise damaged(file.name, error) from error


def _inflated(
    stream: io.BufferedIOBase, file: StudyFile, limits: Limits, options: dict[str, Any]
) -> "FileDataset":
    """Parse a deflated file, whose content pydicom would inflate whatever its size."""
    import pydicom
    from pydicom.dataset import FileMetaDataset

    head = stream.read(_META_AT)
    stream.seek(_META_AT + int.from_bytes(head[_META_LENGTH_AT:_META_AT], "little"))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(stream.read(), limits.max_bytes)
    if inflater.unconsumed_tail:
        raise LimitError(
            f"{file.name}: inflates to more than `max_bytes` ({limits.max_bytes})",
            code=ErrorCode.LIMIT_BYTES,
        )
    if not inflater.eof:
        raise damaged(file.name, "the deflated data are truncated")
    dataset = pydicom.dcmread(io.BytesIO(content), **options)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(_EXPLICIT_LITTLE_ENDIAN)
    return dataset


def damaged(name: str, reason: Any) -> VolumeError:
    """The error of a file that is not valid DICOM."""
    return VolumeError(
        f"{name}: not a valid DICOM image ({reason}); export it again from its source",
        code=ErrorCode.DICOM_FILE,
    )
