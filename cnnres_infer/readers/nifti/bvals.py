"""Selection of the diffusion-weighted volume of a series by its ``.bval`` file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode, Notice, WarningCode
from cnnres_infer.errors import VolumeError
from cnnres_infer.host.files import read_regular
from cnnres_infer.readers.nifti.stream import volume_name

# In s/mm2: the range of clinical stroke protocols (nominally b = 1000), and how much the
# b-values of one shell vary.
_CLINICAL_RANGE = (700.0, 1500.0)
_SHELL_WIDTH = 50.0
_MAX_BYTES = 1 << 16


def select_volumes(path: Path, count: int) -> tuple[tuple[int, ...], Notice]:
    """Select the volumes of the highest clinical b-value.

    This is either a single trace image, or the diffusion directions whose mean
    replaces it.

    Parameters
    ----------
    path
        The NIfTI file. The b-values are read from ``NAME.bval`` next to it, as
        numbers separated by whitespace (the FSL format, which dcm2niix writes).
    count
        Number of volumes in the file.

    Returns
    -------
    indices
        Indices of the volumes to average, in ascending order.
    notice
        A warning that says what was selected.

    Raises
    ------
    VolumeError
        If the b-values are missing or malformed, or if none is between 700 and
        1500 s/mm2.
    """
    table = path.parent / f"{volume_name(path)}.bval"
    try:
        text = read_regular(table, _MAX_BYTES)[:_MAX_BYTES]
    except FileNotFoundError as error:
        raise VolumeError(
            f"{path}: contains {count} volumes; give a single volume, or put the b-values next "
            f"to it ({table.name})",
            code=ErrorCode.NIFTI_SERIES,
        ) from error
    except OSError as error:
        raise VolumeError(f"{table}: {error.strerror}", code=ErrorCode.NIFTI_BVAL) from error
    values = _parse_bvalues(text, table)
    if len(values) != count:
        raise VolumeError(
            f"{table}: {len(values)} b-values for {count} volumes; correct the list, or give a "
            "single volume",
            code=ErrorCode.NIFTI_BVAL,
        )
    lowest, highest = _CLINICAL_RANGE
    clinical = values[(values >= lowest) & (values <= highest)]
    if not clinical.size:
        raise VolumeError(
            f"{table}: no b-value between {lowest:g} and {highest:g} s/mm2; give a single volume",
            code=ErrorCode.NIFTI_BVAL,
        )
    bvalue = float(clinical.max())
    in_shell = (values <= bvalue) & (values >= bvalue - _SHELL_WIDTH)
    indices = tuple(int(i) for i in np.flatnonzero(in_shell))
    return indices, _selection_notice(indices, count, bvalue)


def _selection_notice(indices: tuple[int, ...], count: int, bvalue: float) -> Notice:
    listed = ", ".join(map(str, indices))
    selected = f"volume {listed}" if len(indices) == 1 else f"the mean of volumes {listed}"
    text = f"{selected} of {count} volumes was used: b = {bvalue:g} s/mm2"
    return Notice(WarningCode.NIFTI_VOLUME, text)


def _parse_bvalues(text: bytes, table: Path) -> NDArray[np.float64]:
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise VolumeError(
            f"{table}: not a list of numbers ({error}); correct it, or give a single volume",
            code=ErrorCode.NIFTI_BVAL,
        ) from error
    if not np.isfinite(values).all() or (values < 0).any():
        raise VolumeError(
            f"{table}: b-values must be finite and not negative; correct them, or give a single "
            "volume",
            code=ErrorCode.NIFTI_BVAL,
        )
    return values
