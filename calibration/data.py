"""Scans to calibrate with and scans to judge by, of different patients."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np

from calibration.scan import Scan
from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.errors import UsageError
from cnnres_infer.readers import load_volume
from cnnres_infer.readers.case import read_case
from training.data import (
    UNLABELLED_VOLUME,
    VALIDATION_VOLUMES,
    Images,
    load_validation_slices,
    volume_paths,
)

_COLLECTIONS_MARKER = Path("isles22_slices", "index.csv")
_TRUTH_SUFFIXES = ("_msk", "_mask")
_FLAIR_SUFFIX, _DWI_SUFFIX = "_flair", "_dwi"
_SUBJECT = re.compile("sub-[0-9A-Za-z]+(?=[_.]|$)")


@dataclass(frozen=True)
class Split:
    """Scans to calibrate with and scans to judge by."""

    calibration: tuple[Scan, ...]
    gate: tuple[Scan, ...]


def is_collections(data: Path) -> bool:
    """Tell whether a folder holds the collections that the built-in model is trained on."""
    return (data / _COLLECTIONS_MARKER).exists()


def load_split(data: Path, spec: ModelSpec, seed: int) -> Split:
    """Read the scans of a folder and split them by patient.

    Parameters
    ----------
    data
        Either the collections that the built-in model is trained on, of which
        only the patients held out from training are used, or any folder of
        NIfTI volumes, searched recursively. In the latter,

        - ``NAME.nii.gz`` or ``NAME_dwi.nii.gz`` is a volume, and so is
          ``NAME_flair.nii.gz``; a modality that the model does not take is left out;
        - ``NAME_msk.nii.gz`` or ``NAME_mask.nii.gz`` in the same folder is the
          expert mask of these, but not of a FLAIR on another grid;
        - for a model of two channels, ``NAME_dwi.nii.gz`` and
          ``NAME_flair.nii.gz`` are one scan;
        - files of the same folder and NAME belong to one patient. Where a file
          or a folder is named after a subject as in BIDS (``sub-01``), all
          files of that subject do.

    Raises
    ------
    UsageError
        If there are fewer than two patients, or an expert mask is not on the
        grid of its volume.
    """
    if is_collections(data):
        return _load_collections(data, spec, seed)
    scans = _load_folder(data, spec)
    count = len({scan.patient for scan in scans})
    if count < 2:
        raise UsageError(
            f"{data}: {count} patient(s) found, but at least two are needed, because no patient "
            "may be both calibrated with and judged by (all files of a sub-XX are one patient's)"
        )
    return _halves(scans, seed)


def _halves(scans: list[Scan], seed: int) -> Split:
    """Half of the patients to calibrate with, the others to judge by."""
    patients = sorted({scan.patient for scan in scans})
    order = np.random.default_rng(seed).permutation(len(patients))
    chosen = {patients[i] for i in order[: len(patients) // 2]}
    return Split(
        tuple(scan for scan in scans if scan.patient in chosen),
        tuple(scan for scan in scans if scan.patient not in chosen),
    )


def _load_collections(root: Path, spec: ModelSpec, seed: int) -> Split:
    """Half of the held-out patients and a volume without expert mask to calibrate with."""
    dwi, flair = load_validation_slices(root, spec.slices)
    slices = {Modality.DWI: dwi, Modality.FLAIR: flair}
    singles = [
        scan
        for i, patient in enumerate(dwi.patients)
        for scan in _single_slices(patient, slices, i, spec)
    ]
    split = _halves(singles, seed)
    unlabelled = [
        Scan.of_case(UNLABELLED_VOLUME, case, None, spec) for case in _unlabelled(root, spec)
    ]
    whole = []
    if spec.channels == 1 and Modality.DWI in spec.modalities:
        whole = [_labelled(root, name, spec) for name in VALIDATION_VOLUMES]
    return Split((*split.calibration, *unlabelled), (*split.gate, *whole))


def _single_slices(
    patient: str, slices: Mapping[Modality, Images], index: int, spec: ModelSpec
) -> list[Scan]:
    """One slice of a patient: both modalities stacked, or each on its own."""
    lesions = slices[Modality.DWI].masks[index, None] > 0.5
    pixels = {name: each.pixels[index, None, None] for name, each in slices.items()}
    if spec.channels == 2:
        return [Scan(patient, patient, np.concatenate(list(pixels.values()), axis=1), lesions)]
    return [
        Scan(f"{patient} {name}", patient, images, lesions)
        for name, images in pixels.items()
        if name in spec.modalities
    ]


def _unlabelled(root: Path, spec: ModelSpec) -> list[Case]:
    """The volumes without expert mask: as one case, or a case for each modality."""
    folder = root / "volumes" / UNLABELLED_VOLUME
    both = (Modality.DWI, Modality.FLAIR)
    paths = {name: folder / f"{UNLABELLED_VOLUME}_{name}.nii.gz" for name in both}
    if spec.channels == 2:
        return [read_case(paths[Modality.DWI], flair=paths[Modality.FLAIR])]
    return [
        read_case(path, modality=name) for name, path in paths.items() if name in spec.modalities
    ]


def _labelled(root: Path, name: str, spec: ModelSpec) -> Scan:
    image, mask = volume_paths(root, name)
    case = read_case(replace(load_volume(image), name=name))
    return Scan.of_case(name, case, load_volume(mask).data > 0.5, spec)


def _load_folder(folder: Path, spec: ModelSpec) -> list[Scan]:
    scans = []
    for path in sorted(folder.rglob("*.nii*")):
        stem = _stem(path)
        modality = _modality(stem, spec)
        beside_dwi = spec.channels == 2 and modality is Modality.FLAIR
        if stem.endswith(_TRUTH_SUFFIXES) or beside_dwi or modality not in spec.modalities:
            continue
        base = stem.removesuffix(_DWI_SUFFIX).removesuffix(_FLAIR_SUFFIX)
        place = path.relative_to(folder)
        flair = _flair(path, base) if spec.channels == 2 else None
        volume = replace(load_volume(path), name=place.as_posix())
        case = read_case(volume, flair=flair, modality=modality)
        truth = _expert_mask(path, base, case)
        scans.append(Scan.of_case(_patient(place.parent / base), case, truth, spec))
    return scans


def _modality(stem: str, spec: ModelSpec) -> Modality:
    """The modality that a file is named after, else DWI unless the model does not take it."""
    if stem.endswith(_FLAIR_SUFFIX):
        return Modality.FLAIR
    if stem.endswith(_DWI_SUFFIX) or Modality.DWI in spec.modalities:
        return Modality.DWI
    return spec.modalities[0]


def _patient(place: PurePath) -> str:
    """The BIDS subject that a file or a folder of it is named after, else a patient of its own."""
    subjects = (_SUBJECT.match(part) for part in reversed(place.parts))
    return next((found.group() for found in subjects if found), place.as_posix())


def _flair(path: Path, base: str) -> Path:
    """The FLAIR in the same folder as a DWI."""
    flair = _beside(path, base + _FLAIR_SUFFIX)
    if flair is None:
        raise UsageError(f"{path}: the model needs {base}{_FLAIR_SUFFIX}.nii.gz beside it")
    return flair


def _expert_mask(path: Path, base: str, case: Case) -> BoolArray | None:
    """The mask in the same folder as a volume; a FLAIR on another grid than its DWI has none."""
    found = [mask for suffix in _TRUTH_SUFFIXES if (mask := _beside(path, base + suffix))]
    if not found:
        return None
    truth = load_volume(found[0], is_mask=True)
    if truth.grid.matches(case.volume.grid):
        lesion: BoolArray = truth.data > 0.5
        return lesion
    if _stem(path).endswith(_FLAIR_SUFFIX):
        return None
    raise UsageError(
        f"{found[0]}: not on the grid of {path}; resample the expert mask to the volume's grid"
    )


def _beside(path: Path, stem: str) -> Path | None:
    """The volume of this name in the same folder, if there is one."""
    paths = (path.with_name(stem + suffix) for suffix in (".nii.gz", ".nii"))
    return next((other for other in paths if other.exists()), None)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
