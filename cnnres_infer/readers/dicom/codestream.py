"""The size of an image as its compressed data state it, so that no decoder allocates more."""

from typing import TYPE_CHECKING

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import LimitError

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

_J2K_START, _J2K_SIZE = b"\xff\x4f", b"\xff\x51"
_JPEG_START = b"\xff\xd8"
# Start-of-frame markers of JPEG and JPEG-LS; others in the range are tables.
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_MAX_HEADER_BYTES = 1 << 16


def encoded_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream states; None if it is neither."""
    start = data.find(_J2K_START + _J2K_SIZE, 0, _MAX_HEADER_BYTES)
    if start >= 0 and not data.startswith(_JPEG_START):
        # Marker segment: its length, capabilities, then the far and near corner of the image.
        sizes = [int.from_bytes(data[at : at + 4], "big") for at in range(start + 8, start + 24, 4)]
        width, height, left, top = sizes
        return height - top, width - left
    if not data.startswith(_JPEG_START):
        return None
    at = len(_JPEG_START)
    while at + 9 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at] != 0xFF or length < 2:
            return None
        if marker in _FRAMES:
            rows, columns = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return int.from_bytes(rows, "big"), int.from_bytes(columns, "big")
        at += 2 + length
    return None


def check_encoded_size(dataset: "FileDataset", index: int | None) -> None:
    """Check that the compressed data of a frame state the size that the header states.

    Raises
    ------
    LimitError
        If they state another, which a decoder would allocate.
    """
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    from pydicom.encaps import get_frame

    count = int(dataset.get("NumberOfFrames") or 1)
    size = encoded_size(get_frame(dataset.PixelData, index or 0, number_of_frames=count))
    stated = (int(dataset.Rows), int(dataset.Columns))
    if size is not None and size != stated:
        raise LimitError(
            f"{dataset.get('SOPInstanceUID', 'image')}: compressed pixels of {size[0]} x {size[1]} "
            f"in an image of {stated[0]} x {stated[1]}; export it again",
            code=ErrorCode.DICOM_PIXELS,
        )
