"""What the product says to images other than DWI and FLAIR, and how often to true ones."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kinds import OTHERS, TRUE
from benchmarks.scans import Scan, find_scans, find_slices
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.codes import WarningCode
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import InputError
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.pipeline.appearance import Appearance
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.prepare import case_notices, prepare
from cnnres_infer.readers import load_volume

# What the model is meant for, in s/mm².
_HIGHEST_B = 1500.0
_SEEDS = 4
_CONTRAST = frozenset(
    {WarningCode.INPUT_ADC, WarningCode.INPUT_CONTRAST, WarningCode.INPUT_INTENSITY}
)
# What tells a wrong image as well, but says nothing about a single slice.
_ALL = _CONTRAST | {WarningCode.BRAIN_SIZE}

Sample = tuple[str, bool, bool, Volume, Modality]


def images(root: Path, bundle: Path | None) -> dict[str, Any]:
    """Prepare every image as `predict` does, without running the network.

    Parameters
    ----------
    root
        The collections' folder.
    bundle
        The model; by default the built-in one.

    Returns
    -------
    dict
        ``kinds``, a row each: its name, whether the model is meant for it, how many were
        ``refused``, ``warned`` of and ``let_through``, and the ``codes`` given;
        ``bounds``, how a bound set without a person tells that person's images.
    """
    spec = Bundle.open(bundle).spec
    scans = list(find_scans(root))
    rows: dict[str, dict[str, Any]] = {}
    for kind, is_true, is_slice, volume, modality in _samples(scans, root):
        row = rows.setdefault(
            kind,
            {"kind": kind, "meant": is_true, "refused": 0, "warned": 0, "let_through": 0}
            | {"codes": Counter()},
        )
        outcome, codes = _outcome(volume, modality, spec, _CONTRAST if is_slice else _ALL)
        row[outcome] += 1
        row["codes"].update(codes)
    return {"kinds": list(rows.values()), "bounds": _bounds(scans)}


def markdown(figures: dict[str, Any]) -> str:
    """The table of docs/images.md."""
    lines = ["| image | number | refused | warned of | let through | codes |", "|---|" + "---|" * 5]
    for row in figures["kinds"]:
        counts = [row[key] for key in ("refused", "warned", "let_through")]
        codes = ", ".join(f"`{code}`" for code, _ in row["codes"].most_common(2))
        cells = (row["kind"], sum(counts), *counts, codes)
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _samples(scans: list[Scan], root: Path) -> Iterator[Sample]:
    meant = [scan for scan in scans if scan.b <= _HIGHEST_B]
    for kind, make in TRUE.items():
        for scan in meant:
            yield kind, True, False, _made(scan, make(scan)), Modality.DWI
    yield from _measured(scans, "flair", "FLAIR, skull-stripped", Modality.FLAIR)
    for seed in range(_SEEDS):
        for modality in Modality:
            phantom = make_phantom(seed, modality=modality, skull=bool(seed % 2))
            volume = Volume.from_array(phantom.data, phantom.affine)
            yield "synthetic head of this package", True, False, volume, modality
    for collection, modality, volume in find_slices(root):
        yield f"{modality.upper()}, a slice ({collection})", True, True, volume, modality
    for scan in scans:
        if scan.b > _HIGHEST_B:
            yield "DWI of b = 2000 to 2500 s/mm²", False, False, scan.dwi, Modality.DWI
    yield from _measured(scans, "adc", "ADC as scanners store it", Modality.DWI)
    people = [next(group) for _, group in groupby(scans, lambda scan: scan.person)]
    for kind, make in OTHERS.items():
        for scan in scans if kind == "b0" else people:
            yield kind, False, False, _made(scan, make(scan)), Modality.DWI
    for path in sorted((root / "soop" / "lesion_masks").glob("*.nii.gz"))[::60]:
        yield "lesion mask", False, False, load_volume(path), Modality.DWI


def _measured(scans: Iterable[Scan], name: str, kind: str, modality: Modality) -> Iterator[Sample]:
    for scan in scans:
        if name in scan.measured:
            meant = modality is Modality.FLAIR
            yield kind, meant, False, load_volume(scan.measured[name]), modality


def _made(scan: Scan, data: np.ndarray) -> Volume:
    return Volume.from_array(data, scan.dwi.grid, "image")


def _outcome(
    volume: Volume, modality: Modality, spec: ModelSpec, counted: frozenset[WarningCode]
) -> tuple[str, set[str]]:
    case = Case(modality, volume)
    try:
        notices = case_notices(case, prepare(case, spec, Stopwatch(None)), spec)
    except InputError as error:
        return "refused", {str(error.code)}
    codes = {str(notice.code) for notice in notices if notice.code in counted}
    return ("warned" if codes else "let_through"), codes


def _bounds(scans: list[Scan]) -> dict[str, Any]:
    """Bounds set midway between DWI and others, for each person without that person's images."""
    looks: list[tuple[str, bool, Appearance]] = []
    for scan in scans:
        for is_true, data in ((True, scan.dwi.data), (False, scan.b0), (False, scan.adc)):
            if not is_true or scan.b <= _HIGHEST_B:
                look = Appearance.of(replace(scan.dwi, data=data), scan.brain)
                if look is not None:
                    looks.append((scan.person, is_true, look))
    figures = {}
    for name in ("brightest", "tail"):
        right = 0
        for person in {person for person, _, _ in looks}:
            rest = [(is_true, getattr(look, name)) for who, is_true, look in looks if who != person]
            highest = max(value for is_true, value in rest if is_true)
            lowest = min(value for is_true, value in rest if not is_true)
            bound = (highest + lowest) / 2
            right += sum(
                (getattr(look, name) < bound) == is_true
                for who, is_true, look in looks
                if who == person
            )
        figures[name] = {"right": right, "of": len(looks)}
    return figures
