"""Cases of a folder that is no BIDS dataset: NIfTI files told by their names, DICOM studies."""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnnres_infer.cohort.case import CohortCase, Found, Skip, label
from cnnres_infer.core.case import Modality
from cnnres_infer.core.text import without_folder
from cnnres_infer.errors import VolumeError
from cnnres_infer.outputs.writers import WRITERS
from cnnres_infer.readers import READERS, case_name, reader_of

_SUFFIXES = (".nii.gz", ".nii")
# The last part of a file's name that says what it is.
_ROLES = {"dwi": "dwi", "trace": "dwi", "flair": "flair", "adc": "adc", "b0": "b0"}
_OWN_OUTPUTS = tuple(
    writer.suffix.removesuffix(".nii.gz")
    for writer in WRITERS.values()
    if writer.suffix.endswith(".nii.gz")
)


def find_folder(folder: Path, modality: Modality, *, with_flair: bool = True) -> Found:
    """Find the cases of a folder and of the folders in it.

    NIfTI files whose names end in ``_dwi``, ``_flair``, ``_adc`` or ``_b0`` and
    start alike, in the same folder, are one case. If no file is named so, each is
    a case of its own. Folders of DICOM files alone, and zip archives, are studies.

    Parameters
    ----------
    folder
        The folder.
    modality
        What to segment, and what files without such a name are.
    with_flair
        Whether the FLAIR of a DWI is wanted.
    """
    files, studies, skipped = _walk(folder)
    named, others = _by_stem(files)
    cases: list[CohortCase] = []
    for (_, stem), roles in named.items():
        case = _case(stem, roles, modality, with_flair)
        if case is None:
            skipped.append(Skip(stem, f"no {modality} with {', '.join(sorted(roles))}"))
        else:
            cases.append(case)
    for path in others:
        if named:
            skipped.append(Skip(path.name, "the name does not say what it is, unlike others"))
        else:
            cases.append(CohortCase(label(_stem(path), "sub-"), "", path, modality))
    for path in studies:
        try:
            cases.append(CohortCase(label(case_name(path), "sub-"), "", path, modality))
        except VolumeError as error:
            skipped.append(Skip(path.name, without_folder(str(error), path)))
    return Found.of(cases, skipped)


def _case(
    stem: str, roles: dict[str, list[Path]], modality: Modality, with_flair: bool
) -> CohortCase | None:
    if modality not in roles:
        return None
    wanted = [str(modality)]
    if modality is Modality.DWI:
        # The map is preferred, which the scanner computed from more images.
        wanted += ["flair"] * with_flair + ["adc" if "adc" in roles else "b0"]
    used: dict[str, Any] = {
        role: max(roles[role], key=_is_trace) for role in wanted if role in roles
    }
    notes = [
        f"{path.name} was used of {', '.join(each.name for each in roles[role])}"
        for role, path in used.items()
        if len(roles[role]) > 1
    ]
    case = CohortCase(label(stem, "sub-"), "", used.pop(modality), modality, notes=tuple(notes))
    return replace(case, **used)


def _is_trace(path: Path) -> bool:
    return _stem(path).lower().endswith("_trace")


def _by_stem(
    files: list[Path],
) -> tuple[dict[tuple[Path, str], dict[str, list[Path]]], list[Path]]:
    """Files whose names say what they are, by folder and stem, and the others."""
    named: dict[tuple[Path, str], dict[str, list[Path]]] = defaultdict(dict)
    others = []
    for path in files:
        stem, _, last = _stem(path).rpartition("_")
        role = _ROLES.get(last.lower())
        if role is not None and stem:
            named[path.parent, stem].setdefault(role, []).append(path)
        else:
            others.append(path)
    return dict(named), others


def _walk(folder: Path) -> tuple[list[Path], list[Path], list[Skip]]:
    """NIfTI files and DICOM studies, in order, and studies that are left out."""
    files: list[Path] = []
    archives: list[Path] = []
    for parent, names in _folders(folder):
        nifti = [each for each in names if each.endswith(_SUFFIXES)]
        files += [parent / each for each in nifti if not _is_own(parent / each)]
        archives += [parent / each for each in names if each.lower().endswith(".zip")]
    beside = {path.relative_to(folder).parts[0]: path.name for path in (*files, *archives)}
    recognises = READERS["dicom"].functions.recognises
    studies, skipped = list(archives), []
    for parent in sorted(each for each in folder.iterdir() if each.is_dir()):
        if recognises(parent, b""):
            if parent.name in beside:
                skipped.append(_not_alone(parent, beside[parent.name]))
            else:
                studies.append(parent)
    if not files and not studies:
        studies += [folder] * recognises(folder, b"")
    elif _has_loose_dicom(folder):
        skipped.append(_not_alone(folder, (files + studies)[0].name))
    return files, studies, skipped


def _is_own(path: Path) -> bool:
    """Whether a file is an output of ours, of a single call or a cohort."""
    stem = _stem(path)
    return stem.endswith(_OWN_OUTPUTS) or "_desc-cnnres_" in stem


def _has_loose_dicom(folder: Path) -> bool:
    return any(
        reader_of(path) == "dicom"
        for path in folder.iterdir()
        if path.is_file() and path.suffix.lower() != ".zip" and path.name.upper() != "DICOMDIR"
    )


def _not_alone(folder: Path, other: str) -> Skip:
    return Skip(folder.name, f"the DICOM files in it were not read, since {other} is there too")


def _folders(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        yield Path(parent), sorted(each for each in names if not each.startswith("."))


def _stem(path: Path) -> str:
    return next(path.name.removesuffix(each) for each in _SUFFIXES if path.name.endswith(each))
