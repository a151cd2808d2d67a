"""Slices to calibrate with, and others to judge by: never the same patients."""

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Self

import numpy as np

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import UsageError
from cnnres_infer.pipeline.brain import find_brain
from cnnres_infer.pipeline.mask import binarize
from cnnres_infer.pipeline.resample import regrid
from cnnres_infer.pipeline.slices.back import VolumeAssembler
from cnnres_infer.pipeline.slices.batches import SliceBatch, all_slices
from cnnres_infer.pipeline.slices.geometry import SliceGeometry
from cnnres_infer.readers import load_volume
from training.data import (
    UNLABELLED_VOLUME,
    VALIDATION_VOLUMES,
    Images,
    load_validation_slices,
    volume_paths,
)

_COLLECTIONS_MARK = Path("isles22_slices", "index.csv")
_TRUTH_SUFFIXES = ("_msk", "_mask")
_FLAIR_SUFFIX, _DWI_SUFFIX = "_flair", "_dwi"
_SUBJECT = re.compile("sub-[0-9A-Za-z]+(?=[_.]|$)")


@dataclass(frozen=True, eq=False)
class WholeVolume:
    """How the network's output for a volume's slices becomes its mask.

    Attributes
    ----------
    batch
        All of the volume's slices with brain.
    truth
        The experts' mask (X, Y, Z), if there is one.
    """

    volume: Volume
    geometry: SliceGeometry
    batch: SliceBatch
    truth: BoolArray | None

    def mask(self, output: FloatArray, spec: ModelSpec) -> BoolArray:
        """Mask (X, Y, Z) from the output (N, 1, H, W) for all slices."""
        canvas = VolumeAssembler(self.volume.grid, self.geometry)
        canvas.put(self.batch, output)
        mask: BoolArray = binarize(canvas.finish(), spec.mask)[0].data > 0
        return mask


@dataclass(frozen=True, eq=False)
class Case:
    """Network inputs from one patient.

    Attributes
    ----------
    name
        Of the images, no other case has it.
    patient
        Whose images they are: what `Split` goes by.
    images
        float32 (N, C, H, W).
    lesions
        The experts' masks (N, H, W) on these pixels, if there are any.
    whole
        The volume that the images are all of, None for single slices.
    """

    name: str
    patient: str
    images: FloatArray
    lesions: BoolArray | None
    whole: WholeVolume | None = None

    @property
    def positions(self) -> FloatArray:
        """(N,): 0 for the lowest slice of a volume to 1 for the highest; single ones count 0.5."""
        count = len(self.images)
        return np.linspace(0.0, 1.0, count, dtype=np.float32) if count > 1 else np.full(1, 0.5)

    @classmethod
    def of_volumes(
        cls,
        patient: str,
        channels: tuple[Volume, ...],
        truth: BoolArray | None,
        spec: ModelSpec,
    ) -> Self:
        """Cut a patient's volumes on one grid, one for each input channel."""
        brain = find_brain(channels[0]).mask
        geometry, batch = all_slices(channels, brain, spec.slices)
        lesions = None
        if truth is not None:
            planes = geometry.planes(truth)[batch.z].astype(np.float32)
            lesions = geometry.to_pixels(planes) > 0.5
        whole = WholeVolume(channels[0], geometry, batch, truth)
        return cls(channels[0].name, patient, batch.images, lesions, whole)


@dataclass(frozen=True)
class Split:
    """Cases to calibrate with and cases to judge by."""

    calibration: tuple[Case, ...]
    gate: tuple[Case, ...]


def is_collections(data: Path) -> bool:
    """Tell whether a folder holds the collections that the built-in model is trained on."""
    return (data / _COLLECTIONS_MARK).exists()


def load_split(data: Path, spec: ModelSpec, seed: int) -> Split:
    """Read and split a folder.

    Parameters
    ----------
    data
        The collections that the built-in model is trained on (their patients
        held out from the training are taken), or any folder of NIfTI volumes.
        In the latter, ``NAME_msk.nii.gz`` or ``NAME_mask.nii.gz`` is the expert
        mask of ``NAME.nii.gz`` or ``NAME_dwi.nii.gz`` in the same folder, and of
        ``NAME_flair.nii.gz`` if that is on the same grid; for a model of two
        channels, ``NAME_dwi.nii.gz`` and ``NAME_flair.nii.gz`` belong together.
        All that is of one NAME in one folder is one patient's; where the file or
        a folder is named after the subject as in BIDS (``sub-01``), all that is
        of one subject.

    Raises
    ------
    UsageError
        If there are not at least two patients, or an expert mask is not on the
        grid of its volume.
    """
    if is_collections(data):
        return _collections(data, spec, seed)
    cases = _folder(data, spec)
    count = len({case.patient for case in cases})
    if count < 2:
        raise UsageError(
            f"{data}: {count} patient(s) found; give at least two, since none may "
            "be calibrated with and judged by at once (all of one sub-XX are one patient's)"
        )
    return _halves(cases, seed)


def _halves(cases: list[Case], seed: int) -> Split:
    """Half of the patients to calibrate, the others to judge."""
    patients = sorted({case.patient for case in cases})
    order = np.random.default_rng(seed).permutation(len(patients))
    chosen = {patients[i] for i in order[: len(patients) // 2]}
    return Split(
        tuple(case for case in cases if case.patient in chosen),
        tuple(case for case in cases if case.patient not in chosen),
    )


def _collections(root: Path, spec: ModelSpec, seed: int) -> Split:
    """Half of the held-out patients to calibrate, with a volume that has no expert mask."""
    dwi, flair = load_validation_slices(root)
    single = [
        case
        for i, patient in enumerate(dwi.patients)
        for case in _single(patient, dwi, flair, i, spec.channels)
    ]
    split = _halves(single, seed)
    folder = root / "volumes" / UNLABELLED_VOLUME
    names = {name: folder / f"{UNLABELLED_VOLUME}_{name}.nii.gz" for name in ("dwi", "flair")}
    volumes = {name: load_volume(path) for name, path in names.items()}
    if spec.channels == 2:
        aligned, _ = regrid(volumes["flair"], volumes["dwi"].grid)
        inputs: list[tuple[Volume, ...]] = [(volumes["dwi"], aligned)]
        whole = []
    else:
        inputs = [(volume,) for volume in volumes.values()]
        whole = [_labelled(root, case, spec) for case in VALIDATION_VOLUMES]
    unlabelled = [Case.of_volumes(UNLABELLED_VOLUME, x, None, spec) for x in inputs]
    return Split((*split.calibration, *unlabelled), (*split.gate, *whole))


def _single(patient: str, dwi: Images, flair: Images, index: int, channels: int) -> list[Case]:
    lesions = dwi.masks[index, None] > 0.5
    pixels = [x.pixels[index, None, None] for x in (dwi, flair)]
    if channels == 2:
        return [Case(patient, patient, np.concatenate(pixels, axis=1), lesions)]
    names = (f"{patient} dwi", f"{patient} flair")
    return [Case(name, patient, image, lesions) for name, image in zip(names, pixels, strict=True)]


def _labelled(root: Path, case: str, spec: ModelSpec) -> Case:
    image, mask = volume_paths(root, case)
    volume = replace(load_volume(image), name=case)
    return Case.of_volumes(case, (volume,), load_volume(mask).data > 0.5, spec)


def _folder(folder: Path, spec: ModelSpec) -> list[Case]:
    cases = []
    for path in sorted(folder.rglob("*.nii*")):
        stem = _stem(path)
        if stem.endswith(_TRUTH_SUFFIXES) or (spec.channels == 2 and stem.endswith(_FLAIR_SUFFIX)):
            continue
        base = stem.removesuffix(_DWI_SUFFIX).removesuffix(_FLAIR_SUFFIX)
        place = path.relative_to(folder)
        volumes: tuple[Volume, ...] = (replace(load_volume(path), name=place.as_posix()),)
        if spec.channels == 2:
            partner = _beside(path, base + _FLAIR_SUFFIX)
            if partner is None:
                raise UsageError(f"{path}: the model needs {base}{_FLAIR_SUFFIX}.nii.gz beside it")
            volumes = (*volumes, regrid(load_volume(partner), volumes[0].grid)[0])
        truth = _expert_mask(path, base, volumes[0])
        cases.append(Case.of_volumes(_patient(place.parent / base), volumes, truth, spec))
    return cases


def _patient(place: PurePath) -> str:
    """Whose a file is: the subject of BIDS that it or its folder names, else it has its own."""
    subjects = (_SUBJECT.match(part) for part in reversed(place.parts))
    return next((found.group() for found in subjects if found), place.as_posix())


def _expert_mask(path: Path, base: str, volume: Volume) -> BoolArray | None:
    """The mask beside a volume; a FLAIR on another grid has none, since it is the DWI's."""
    found = [mask for suffix in _TRUTH_SUFFIXES if (mask := _beside(path, base + suffix))]
    if not found:
        return None
    truth = load_volume(found[0], may_be_zero=True)
    if truth.grid.matches(volume.grid):
        lesion: BoolArray = truth.data > 0.5
        return lesion
    if _stem(path).endswith(_FLAIR_SUFFIX):
        return None
    raise UsageError(
        f"{found[0]}: not on the grid of {path}; give the expert mask on the volume's grid"
    )


def _beside(path: Path, stem: str) -> Path | None:
    """The volume of this name in the same folder, if there is one."""
    paths = (path.with_name(stem + suffix) for suffix in (".nii.gz", ".nii"))
    return next((other for other in paths if other.exists()), None)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
