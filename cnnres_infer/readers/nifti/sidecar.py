"""What lies beside an image of one volume, its ``.bval`` and BIDS sidecar, and what it says of it.

A converter writes there what the scanner said: of which kind the image is, and
its b-value. That decides whether the image is what it is given as.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnres_infer.codes import ErrorCode, Notice, WarningCode
from cnnres_infer.core.case import Role
from cnnres_infer.core.text import without_folder
from cnnres_infer.errors import VolumeError
from cnnres_infer.readers.bvalues import LARGEST_B0, SHELL_WIDTH, check_stated, unusual
from cnnres_infer.readers.nifti.beside import read_small
from cnnres_infer.readers.nifti.bvals import bval_path, read_bvalues
from cnnres_infer.readers.nifti.stream import volume_name

_MAX_BYTES = 1 << 20
# No scanner goes beyond, in s/mm2.
_LARGEST_B = 1e6

_DWI, _B0, _ADC = "a diffusion-weighted image", "a b0", "an ADC map"
# What scanners call the kinds of diffusion images in the DICOM attribute Image Type.
_KINDS = {
    "ADC": _ADC,
    "EADC": "an exponential ADC map",
    "FA": "a map of fractional anisotropy",
    "TENSOR_B0": _B0,
    "TRACEW": _DWI,
}
_TYPE_KEYS = ("ImageType", "ImageTypeText")
_B_KEYS = ("DiffusionBValue", "BValue")

# The kinds that each role may be of; any other is refused.
_ALLOWED = {Role.DWI: {_DWI}, Role.FLAIR: set(), Role.ADC: {_ADC}, Role.B0: {_B0}}
_NAMES = {Role.DWI: "DWI", Role.FLAIR: "FLAIR", Role.ADC: "ADC map", Role.B0: "b0"}


@dataclass(frozen=True)
class _Said:
    """What one file says: by which entry of it, the kind of image, and the b-value if it says."""

    by: str
    kind: str
    b_value: float | None = None


def check_sidecars(
    path: Path, role: Role, stated: float | None = None
) -> tuple[float | None, tuple[Notice, ...]]:
    """Check what lies beside an image of one volume against what the image is given as.

    Parameters
    ----------
    path
        The NIfTI file.
    role
        What it is given as.
    stated
        b-value in s/mm² that the caller says a DWI has.

    Returns
    -------
    b_value
        b-value in s/mm², where it is known.
    notices
        What is damaged, contradictory or unusual.

    Raises
    ------
    VolumeError
        If the image is of another kind, or another b-value, by what lies beside it.
    UsageError
        If an image of the b-value that is stated is no DWI.
    """
    if role not in _ALLOWED:
        return None, ()
    notices: list[Notice] = []
    types, values = _read(path, notices)
    if role is Role.FLAIR:
        values = []
    # A map keeps the b-value of the images that it was computed from.
    derived = any(each.kind not in (_DWI, _B0) for each in types)
    said = types if derived else [*types, *values]
    _check_kind(path, role, said, notices)
    b_value = next((each.b_value for each in values), None)
    if _contradict(said):
        listed = ", ".join(f"{each.kind} by {each.by}" for each in said)
        text = f"what lies beside it contradicts itself ({listed}) and was ignored"
        notices.append(Notice(WarningCode.SIDECAR, text))
        b_value = None
    if stated is not None:
        check_stated(stated)
        b_value = _agreed(path, stated, stated if b_value is None else b_value)
    if role is Role.DWI and b_value is not None and not derived:
        notices += unusual(b_value)
    return b_value, tuple(notices)


def _check_kind(path: Path, role: Role, said: list[_Said], notices: list[Notice]) -> None:
    if not said or {each.kind for each in said} & _ALLOWED[role]:
        return
    first = said[0]
    # Some scanners keep the b-value of the images that they computed a map from.
    if role is Role.ADC and first.kind == _DWI and first.b_value is not None:
        text = (
            f"b = {first.b_value:g} s/mm2 by {first.by}, but an ADC map has no b-value of its own"
        )
        notices.append(Notice(WarningCode.SIDECAR, text))
        return
    raise VolumeError(
        f"{path}: {first.kind} by {first.by}, but given as {_NAMES[role]}; give the right file, or "
        "correct what lies beside it",
        code=ErrorCode.SIDECAR_KIND,
    )


def _agreed(path: Path, stated: float, known: float) -> float:
    """The b-value that is known, if it is the one that the caller states."""
    if abs(stated - known) > SHELL_WIDTH:
        raise VolumeError(
            f"{path}: b = {known:g} s/mm2 by what lies beside it, but given as {stated:g}; leave "
            "out `bvalue`, or correct what lies beside it",
            code=ErrorCode.SIDECAR_KIND,
        )
    return known


def _contradict(said: list[_Said]) -> bool:
    values = [each.b_value for each in said if each.b_value is not None]
    apart = max(values, default=0.0) - min(values, default=0.0) > SHELL_WIDTH
    return len({each.kind for each in said}) > 1 or apart


def _read(path: Path, notices: list[Notice]) -> tuple[list[_Said], list[_Said]]:
    """What is said of the image's kind, and of its b-value; files that are damaged are noted."""
    types, values = [], []
    try:
        b_values = read_bvalues(path)
        if b_values is not None and len(b_values) != 1:
            raise VolumeError(f"{bval_path(path)}: {len(b_values)} b-values for one volume")
        if b_values is not None:
            values.append(_weighted(bval_path(path).name, float(b_values[0])))
    except VolumeError as error:
        text = f"{without_folder(str(error), path)}; it was ignored"
        notices.append(Notice(WarningCode.SIDECAR, text))
    sidecar = path.parent / f"{volume_name(path)}.json"
    try:
        content = _read_json(sidecar)
    except ValueError as error:
        text = f"{sidecar.name}: not a BIDS sidecar ({error}); it was ignored"
        notices.append(Notice(WarningCode.SIDECAR, text))
        content = {}
    for key in _TYPE_KEYS:
        named = content.get(key)
        parts = named if isinstance(named, list) else [named]
        words = {word for part in parts if isinstance(part, str) for word in part.split("\\")}
        by = f"{key} in {sidecar.name}"
        types += [_Said(by, kind) for word, kind in _KINDS.items() if word in words]
    for key in _B_KEYS:
        value = content.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            if 0 <= value <= _LARGEST_B:
                values.append(_weighted(f"{key} in {sidecar.name}", float(value)))
            else:
                text = f"{sidecar.name}: {key} is not a b-value; it was ignored"
                notices.append(Notice(WarningCode.SIDECAR, text))
    return types, values


def _weighted(by: str, b_value: float) -> _Said:
    return _Said(by, _B0 if b_value <= LARGEST_B0 else _DWI, b_value)


def _read_json(path: Path) -> dict[str, Any]:
    """The content of a sidecar; empty without one."""
    content = read_small(path, _MAX_BYTES)
    if content is None:
        return {}
    try:
        parsed = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    return parsed
