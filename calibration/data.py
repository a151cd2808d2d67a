"""Slices to calibrate with, and others to judge by: never the same patients."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from cnnres_infer.brain import find_brain
from cnnres_infer.bundle import ModelSpec
from cnnres_infer.errors import UsageError
from cnnres_infer.mask import binarize
from cnnres_infer.regrid import regrid
from cnnres_infer.slices import BoolArray, SliceBatch, SliceGeometry, from_batches, to_batches
from cnnres_infer.volume import FloatArray, Volume, load_volume
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
        probabilities = from_batches([(self.batch, output)], self.volume.grid, self.geometry)
        mask: BoolArray = binarize(probabilities, spec.mask)[0].data > 0
        return mask


@dataclass(frozen=True, eq=False)
class Case:
    """Network inputs from one patient.

    Attributes
    ----------
    name
        The patient, and the modality where there are several.
    images
        float32 (N, C, H, W).
    lesions
        The experts' masks (N, H, W) on these pixels, if there are any.
    whole
        The volume that the images are all of, None for single slices.
    """

    name: str
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
        cls, channels: tuple[Volume, ...], truth: BoolArray | None, spec: ModelSpec
    ) -> Self:
        """Cut volumes on one grid, one for each input channel."""
        brain = find_brain(channels[0]).mask
        geometry = SliceGeometry.of(channels[0].grid, brain, spec.slices)
        count = channels[0].grid.shape[geometry.axes[2]]
        (batch,) = to_batches(channels, brain, geometry, spec.slices, count)
        lesions = None
        if truth is not None:
            planes = geometry.oriented(truth)[:, :, batch.z].astype(np.float32)
            lesions = geometry.to_pixels(planes) > 0.5
        whole = WholeVolume(channels[0], geometry, batch, truth)
        return cls(channels[0].name, batch.images, lesions, whole)


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
        mask of ``NAME.nii.gz`` or ``NAME_dwi.nii.gz``; for a model of two
        channels, ``NAME_dwi.nii.gz`` and ``NAME_flair.nii.gz`` belong together.

    Raises
    ------
    UsageError
        If there are not at least two patients.
    """
    if is_collections(data):
        return _collections(data, spec, seed)
    cases = _folder(data, spec)
    patients = sorted({case.name for case in cases})
    if len(patients) < 2:
        raise UsageError(
            f"{data}: {len(patients)} volume(s) found; give at least two, since none may "
            "be calibrated with and judged by at once"
        )
    chosen = _half(patients, seed)
    return Split(
        tuple(case for case in cases if case.name in chosen),
        tuple(case for case in cases if case.name not in chosen),
    )


def _half(patients: list[str], seed: int) -> set[str]:
    order = np.random.default_rng(seed).permutation(len(patients))
    return {patients[i] for i in order[: len(patients) // 2]}


def _collections(root: Path, spec: ModelSpec, seed: int) -> Split:
    """Half of the held-out patients to calibrate, with a volume that has no expert mask."""
    dwi, flair = load_validation_slices(root)
    chosen = _half(sorted(dwi.patients), seed)
    single = [
        (patient, case)
        for i, patient in enumerate(dwi.patients)
        for case in _single(patient, dwi, flair, i, spec.channels)
    ]
    folder = root / "volumes" / UNLABELLED_VOLUME
    names = {name: folder / f"{UNLABELLED_VOLUME}_{name}.nii.gz" for name in ("dwi", "flair")}
    volumes = {name: load_volume(path) for name, path in names.items()}
    if spec.channels == 2:
        aligned, _ = regrid(volumes["flair"], volumes["dwi"].grid)
        unlabelled = [Case.of_volumes((volumes["dwi"], aligned), None, spec)]
        whole = []
    else:
        unlabelled = [Case.of_volumes((volume,), None, spec) for volume in volumes.values()]
        whole = [_labelled(root, case, spec) for case in VALIDATION_VOLUMES]
    return Split(
        (*(case for patient, case in single if patient in chosen), *unlabelled),
        (*(case for patient, case in single if patient not in chosen), *whole),
    )


def _single(patient: str, dwi: Images, flair: Images, index: int, channels: int) -> list[Case]:
    lesions = dwi.masks[index, None] > 0.5
    pixels = [x.pixels[index, None, None] for x in (dwi, flair)]
    if channels == 2:
        return [Case(patient, np.concatenate(pixels, axis=1), lesions)]
    names = (f"{patient} dwi", f"{patient} flair")
    return [Case(name, image, lesions) for name, image in zip(names, pixels, strict=True)]


def _labelled(root: Path, case: str, spec: ModelSpec) -> Case:
    image, mask = volume_paths(root, case)
    volume = replace(load_volume(image), name=case)
    return Case.of_volumes((volume,), load_volume(mask).data > 0.5, spec)


def _folder(folder: Path, spec: ModelSpec) -> list[Case]:
    paths = {_stem(path): path for path in sorted(folder.rglob("*.nii*"))}
    cases = []
    for stem, path in paths.items():
        if stem.endswith(_TRUTH_SUFFIXES) or (spec.channels == 2 and stem.endswith(_FLAIR_SUFFIX)):
            continue
        volumes: tuple[Volume, ...] = (load_volume(path),)
        base = stem.removesuffix(_DWI_SUFFIX).removesuffix(_FLAIR_SUFFIX)
        if spec.channels == 2:
            partner = paths.get(base + _FLAIR_SUFFIX)
            if partner is None:
                raise UsageError(f"{path}: the model needs {base}{_FLAIR_SUFFIX}.nii.gz beside it")
            volumes = (*volumes, regrid(load_volume(partner), volumes[0].grid)[0])
        truths = [paths[base + suffix] for suffix in _TRUTH_SUFFIXES if base + suffix in paths]
        truth = load_volume(truths[0]).data > 0.5 if truths else None
        cases.append(Case.of_volumes(volumes, truth, spec))
    return cases


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
