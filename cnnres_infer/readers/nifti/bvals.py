"""Selection of the volumes of a series by its ``.bval`` file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode, Notice, WarningCode
from cnnres_infer.errors import VolumeError
from cnnres_infer.readers.bvalues import CLINICAL_RANGE, LARGEST_B0, in_shell, listed, nearest
from cnnres_infer.readers.nifti.beside import read_small
from cnnres_infer.readers.nifti.stream import volume_name

_MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class Selection:
    """The volumes of a series that stand for the DWI and its b0.

    Attributes
    ----------
    indices
        Volumes whose geometric mean is the DWI, in ascending order.
    b_value
        Mean of their b-values in s/mm².
    b0
        Volumes whose mean is the image without diffusion weighting; may be empty.
    count
        Number of volumes in the series.
    """

    indices: tuple[int, ...]
    b_value: float
    b0: tuple[int, ...]
    count: int

    @property
    def notice(self) -> Notice:
        """A warning that says what was selected."""
        text = (
            f"{_volumes(self.indices, 'geometric mean')} of {self.count} volumes was used: "
            f"b = {self.b_value:g} s/mm2"
        )
        if self.b0:
            text += f"; {_volumes(self.b0, 'mean')} is its b0"
        return Notice(WarningCode.NIFTI_VOLUME, text)


def bval_path(path: Path) -> Path:
    """Where the b-values of an image are."""
    return path.parent / f"{volume_name(path)}.bval"


def read_bvalues(path: Path) -> NDArray[np.float64] | None:
    """The b-values of an image in s/mm², from ``NAME.bval`` next to it; None without that file.

    They are numbers separated by whitespace, the FSL format, which dcm2niix writes.

    Raises
    ------
    VolumeError
        If the file is damaged.
    """
    table = bval_path(path)
    try:
        content = read_small(table, _MAX_BYTES)
        values = None if content is None else np.array([float(word) for word in content.split()])
    except ValueError as error:
        raise VolumeError(
            f"{table}: not a list of b-values ({error}); correct it, or give a single volume",
            code=ErrorCode.NIFTI_BVAL,
        ) from error
    if values is not None and not (np.isfinite(values) & (values >= 0)).all():
        raise VolumeError(
            f"{table}: b-values must be finite and not negative; correct them, or give a single "
            "volume",
            code=ErrorCode.NIFTI_BVAL,
        )
    return values


def select_volumes(path: Path, count: int, wanted: float | None = None) -> Selection:
    """Select the volumes of the b-value to segment; see `cnnres_infer.readers.bvalues`.

    The volumes of that b-value, give or take 50 s/mm², are a single trace image,
    or the diffusion directions whose geometric mean is one. Volumes of at most
    50 s/mm² are b0.

    Parameters
    ----------
    path
        The NIfTI file, with its b-values next to it; see `read_bvalues`.
    count
        Number of volumes in the file.
    wanted
        The b-value to take instead of the one nearest to 1000.

    Raises
    ------
    VolumeError
        If the b-values are missing or damaged, or if none is in the range.
    """
    values = _b_values_of_series(path, count)
    b = nearest(values.tolist(), wanted)
    if b is None:
        lowest, highest = CLINICAL_RANGE
        sought = f"between {lowest:g} and {highest:g}" if wanted is None else f"of {wanted:g}"
        raise VolumeError(
            f"{bval_path(path)}: no b-value {sought} s/mm2, only {listed(values.tolist())}; choose "
            "one of these (`bvalue`), or give a single volume",
            code=ErrorCode.NIFTI_BVAL,
        )
    shell = np.flatnonzero(in_shell(values, b))
    return Selection(_indices(shell), float(values[shell].mean()), _b0(values), count)


def select_b0(path: Path, count: int) -> tuple[tuple[int, ...], Notice]:
    """Select the volumes that are not diffusion-weighted.

    Parameters
    ----------
    path, count
        See `select_volumes`.

    Returns
    -------
    indices
        The volumes to average.
    notice
        A warning that says what was selected.

    Raises
    ------
    VolumeError
        If the b-values are missing or damaged, or if none is low enough.
    """
    values = _b_values_of_series(path, count)
    indices = _b0(values)
    if not indices:
        raise VolumeError(
            f"{bval_path(path)}: no b-value up to {LARGEST_B0:g} s/mm2, only "
            f"{listed(values.tolist())}; give b0 as a single volume",
            code=ErrorCode.NIFTI_BVAL,
        )
    text = f"{_volumes(indices, 'mean')} of {count} volumes was used as b0"
    return indices, Notice(WarningCode.NIFTI_VOLUME, text)


def _b_values_of_series(path: Path, count: int) -> NDArray[np.float64]:
    table, values = bval_path(path), read_bvalues(path)
    if values is None:
        raise VolumeError(
            f"{path}: contains {count} volumes; give a single volume, or put the b-values next "
            f"to it ({table.name})",
            code=ErrorCode.NIFTI_SERIES,
        )
    if len(values) != count:
        raise VolumeError(
            f"{table}: {len(values)} b-values for {count} volumes; correct the list, or give a "
            "single volume",
            code=ErrorCode.NIFTI_BVAL,
        )
    return values


def _b0(values: NDArray[np.float64]) -> tuple[int, ...]:
    return _indices(np.flatnonzero(values <= LARGEST_B0))


def _indices(found: NDArray[np.intp]) -> tuple[int, ...]:
    return tuple(int(index) for index in found)


def _volumes(indices: Sequence[int], mean: str) -> str:
    listed = ", ".join(map(str, indices))
    return f"volume {listed}" if len(indices) == 1 else f"the {mean} of volumes {listed}"
