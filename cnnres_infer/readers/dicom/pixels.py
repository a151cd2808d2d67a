"""Decoding the pixels of stacked frames."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.volume import overflows
from cnnres_infer.errors import InputError, VolumeError
from cnnres_infer.host.machine import resident_bytes
from cnnres_infer.limits import Limits
from cnnres_infer.readers.bvalues import mean_of
from cnnres_infer.readers.dicom.codestream import check_encoded_size
from cnnres_infer.readers.dicom.files import StudyFile
from cnnres_infer.readers.dicom.frames import Frame
from cnnres_infer.readers.dicom.geometry import Stack
from cnnres_infer.readers.dicom.headers import damaged, parse, quiet

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

_BYTES_PER_PIXEL = 2


def check_size(stack: Stack, name: str, limits: Limits) -> None:
    """Check the size of a volume against the limits, before any pixel is decoded.

    Raises
    ------
    LimitError
        If it exceeds one.
    """
    voxels = int(np.prod([int(each) for each in stack.grid.shape], dtype=object))
    files = {frame.image.file: frame for layer in stack.layers for frame in layer}
    largest = max(each.size() for each in files)
    stored = max(largest, voxels * _BYTES_PER_PIXEL)
    limits.check_size(name, stack.grid.shape, stored, resident_bytes())


def read_voxels(
    stack: Stack, name: str, limits: Limits, *, geometric: bool
) -> tuple[FloatArray, bool]:
    """Decode the frames of a stack.

    Parameters
    ----------
    stack
        The frames; several at a position are averaged.
    name
        Name of the volume in messages.
    limits
        What it may cost.
    geometric
        Whether the mean is the geometric one, as of directions.

    Returns
    -------
    values
        float32 (X, Y, Z).
    overflowed
        Whether a finite value was too large for float32.

    Raises
    ------
    VolumeError
        If pixels cannot be decoded, or are not what the header says.
    LimitError
        If the volume exceeds a limit.
    """
    check_size(stack, name, limits)
    decoder = _Decoder(limits)
    values = np.empty(stack.grid.shape, np.float32)
    overflowed = False
    for z, layer in enumerate(stack.layers):
        parts = (decoder.intensities(frame) for frame in layer)
        with quiet(), np.errstate(over="ignore", invalid="ignore"):
            exact = next(parts) if len(layer) == 1 else mean_of(parts, geometric=geometric)
            # Rows run down an image, and y up.
            values[:, :, z] = exact[::-1].T
        overflowed |= overflows(exact[::-1].T, values[:, :, z])
    return values, overflowed


class _Decoder:
    """Decodes frames, keeping the last file open, whose other frames are usually asked for next."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._file: StudyFile | None = None
        self._dataset: FileDataset | None = None
        self._pixels: tuple[int | None, NDArray[Any]] | None = None

    def intensities(self, frame: Frame) -> NDArray[np.float64]:
        """Pixels of a frame (rows, columns), scaled."""
        stored = self._stored(frame)
        if frame.tiles is not None and frame.tile is not None:
            stored = stored[frame.tiles.region(frame.tile)]
        if stored.shape != frame.shape:
            raise damaged(frame.image.file.name, f"pixels of shape {stored.shape}")
        slope, intercept = frame.scale
        return stored.astype(np.float64) * slope + intercept

    def _stored(self, frame: Frame) -> NDArray[Any]:
        file = frame.image.file
        if self._file is not file:
            self._file, self._pixels = file, None
            self._dataset = parse(file, self._limits, pixels=True)
        assert self._dataset is not None
        if self._pixels is None or self._pixels[0] != frame.index:
            self._pixels = (frame.index, _decode(self._dataset, frame))
        return self._pixels[1]


def _decode(dataset: "FileDataset", frame: Frame) -> NDArray[Any]:
    from pydicom.pixels import pixel_array

    file = frame.image.file
    if not frame.image.transfer_syntax:
        raise damaged(file.name, "it does not say how its pixels are coded (no transfer syntax)")
    try:
        check_encoded_size(dataset, frame.index)
        pixels: NDArray[Any] = pixel_array(dataset, index=frame.index, raw=True)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise VolumeError(
            f"{file.name}: the pixels cannot be decoded ({reason}); export the series again, "
            "uncompressed if need be",
            code=ErrorCode.DICOM_PIXELS,
        ) from error
    if pixels.ndim != 2 or pixels.dtype.kind not in "iuf":
        raise damaged(file.name, f"pixels of shape {pixels.shape} and type {pixels.dtype}")
    return pixels
