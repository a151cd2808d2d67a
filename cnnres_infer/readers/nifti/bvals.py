"""Choosing the diffusion-weighted volume of a series, by its ``.bval`` file."""

from pathlib import Path

import numpy as np

from cnnres_infer.codes import ErrorCode, Notice, WarningCode
from cnnres_infer.errors import VolumeError
from cnnres_infer.readers.nifti.stream import volume_name

# s/mm2: what clinics call b = 1000, and how far scanners round within a shell.
_CLINICAL = (700.0, 1500.0)
_SHELL = 50.0
_MOST_BYTES = 1 << 16


def choose_volumes(path: Path, count: int) -> tuple[tuple[int, ...], Notice]:
    """Choose the trace image of the highest clinical b-value, or the directions that make it.

    Parameters
    ----------
    path
        The NIfTI file; its b-values are in ``NAME.bval`` beside it, numbers
        apart by white space, as dcm2niix writes them (FSL's form).
    count
        Volumes in the file.

    Returns
    -------
    indices
        Which volumes to average: one or more.
    notice
        What was chosen.

    Raises
    ------
    VolumeError
        If there are no b-values, or none of 700 to 1500 s/mm2.
    """
    table = path.parent / f"{volume_name(path)}.bval"
    try:
        with table.open("rb") as file:
            text = file.read(_MOST_BYTES)
    except FileNotFoundError as error:
        raise VolumeError(
            f"{path}: {count} volumes; give one, or lay their b-values beside it ({table.name})",
            code=ErrorCode.NIFTI_SERIES,
        ) from error
    except OSError as error:
        raise VolumeError(f"{table}: {error.strerror}", code=ErrorCode.NIFTI_BVAL) from error
    values = _numbers(text, table)
    if len(values) != count:
        raise VolumeError(
            f"{table}: {len(values)} b-values for {count} volumes", code=ErrorCode.NIFTI_BVAL
        )
    clinical = values[(values >= _CLINICAL[0]) & (values <= _CLINICAL[1])]
    if not clinical.size:
        raise VolumeError(
            f"{table}: no b-value of {_CLINICAL[0]:g} to {_CLINICAL[1]:g} s/mm2; give one volume",
            code=ErrorCode.NIFTI_BVAL,
        )
    highest = float(clinical.max())
    inside = (values <= highest) & (values >= highest - _SHELL)
    indices = tuple(int(i) for i in np.flatnonzero(inside))
    listed = ", ".join(map(str, indices))
    taken = f"volume {listed}" if len(indices) == 1 else f"the mean of the volumes {listed}"
    text_of = f"of {count} volumes {taken} was taken: b = {highest:g} s/mm2"
    return indices, Notice(WarningCode.NIFTI_VOLUME, text_of)


def _numbers(text: bytes, table: Path) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise VolumeError(
            f"{table}: not a list of numbers ({error})", code=ErrorCode.NIFTI_BVAL
        ) from error
    if not np.isfinite(values).all() or (values < 0).any():
        raise VolumeError(
            f"{table}: b-values must be finite and positive", code=ErrorCode.NIFTI_BVAL
        )
    return values
