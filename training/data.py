"""Training images from the collections of real MRI, which have a README of their own.

Every image comes through `cnnres_infer.pipeline.shading` and `cnnres_infer.pipeline.slices`, as at
inference. For training most come several times, as other scanners and other
brain masks would give them; see `training.variants`.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.case import Modality
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.spec import SliceSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.brain import find_brain, stripped_brain
from cnnres_infer.pipeline.slices.batches import all_slices
from cnnres_infer.readers import load_volume
from training.lesion_free import Series, find_series
from training.teacher import Teacher
from training.variants import Labelled, at_b, unsaturated, varied

# Removing shading from FLAIR, which shows tissue unequally bright, takes lesions for shading.
SPEC = SliceSpec(size=160, spacing=1.25, ceiling=2.0, shading="removed from dwi")
_DWI = SPEC.of(Modality.DWI)
VALIDATION_VOLUMES = ("sub-strokecase0001", "sub-strokecase0003")
TRAINING_VOLUME = "sub-strokecase0002"
UNLABELLED_VOLUME = "sub-clinical01"

_SMALLEST_BRAIN_SHARE = 0.05
_LARGEST_SATURATED_SHARE = 0.3
_VALIDATION_EVERY = 5
_FLATTEST_TISSUE = 0.01

# How often each comes, every time changed in another way.
_SLICE_VERSIONS = 3
_VOLUME_VERSIONS = 6
_LESION_FREE_VERSIONS = 5

# b-values in s/mm²: of the collections' labelled volumes, and what DWI are computed at.
_USUAL_B = 1000.0
_CLINICAL_B, _HIGH_B = (850.0, 1350.0), (1350.0, 2600.0)
_HIGH_B_SHARE = 0.2
# A brain's median ADC in mm²/s, which gives files of any unit theirs.
_BRAIN_ADC = 0.8e-3


@dataclass(frozen=True)
class Images:
    """Network inputs with their expert masks.

    Attributes
    ----------
    pixels, masks
        float32 (N, H, W): images in [0, 1], and the share of lesion in each pixel.
    patients
        The patient of each.
    """

    pixels: FloatArray
    masks: FloatArray
    patients: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.patients)


@dataclass(frozen=True)
class Collections:
    """All that is trained on and validated with, split by patient.

    Attributes
    ----------
    dwi, flair
        ISLES'22 slices for training.
    volume
        Slices of a whole ISLES'22 DWI volume, most without lesion.
    healthy
        Slices of an unlabelled DWI volume, its healthy half mirrored over the other.
    soop
        FLAIR slices of SOOP.
    lesion_free, high_b
        Slices of volunteers at clinical b-values and above, measured or computed.
    validation
        Pairs (DWI, FLAIR) of ISLES'22 slices of other patients.
    """

    dwi: Images
    flair: Images
    volume: Images
    healthy: Images
    soop: Images
    lesion_free: Images
    high_b: Images
    validation: tuple[Images, Images]


def load_collections(root: Path, seed: int = 0, teacher: Teacher | None = None) -> Collections:
    """Read everything below `root`, as it is and changed at random.

    A teacher softens the masks of the ISLES'22 DWI slices.

    The validation patients are every fifth of the ISLES'22 patients with both
    modalities usable, in the order of their names; the validation volunteers
    those of `training.lesion_free.HELD_OUT`.
    """
    rng = np.random.default_rng(seed)
    rows = _index(root)
    held_out = _held_out(rows)
    dwi, flair = (
        _isles(
            root,
            [r["case"] for r in rows if _usable(r, modality) and r["case"] not in held_out],
            modality,
            rng,
            teacher,
        )
        for modality in Modality
    )
    lesion_free, high_b = _volunteers(root, rng)
    return Collections(
        dwi=dwi,
        flair=flair,
        volume=_versions(root, TRAINING_VOLUME, rng),
        healthy=_mirrored(_versions(root, UNLABELLED_VOLUME, rng)),
        soop=_soop(root, rng),
        lesion_free=lesion_free,
        high_b=high_b,
        validation=load_validation_slices(root),
    )


def load_validation_slices(root: Path, spec: SliceSpec = SPEC) -> tuple[Images, Images]:
    """DWI and FLAIR slices of the patients held out, pixel on pixel, in the same order."""
    pairs = [_isles_pair(root, case, spec) for case in _held_out(_index(root))]
    dwi, flair = zip(*pairs, strict=True)
    return _concatenated(list(dwi)), _concatenated(list(flair))


def load_training_slices(root: Path, spec: SliceSpec = SPEC) -> tuple[Images, Images]:
    """DWI and FLAIR slices of the patients trained on, as they are."""
    rows = _index(root)
    held_out = _held_out(rows)
    dwi, flair = (
        _stack(
            _images(_isles_case(root, row["case"], modality), spec.of(modality))
            for row in rows
            if _usable(row, modality) and row["case"] not in held_out
        )
        for modality in Modality
    )
    return dwi, flair


def volume_paths(root: Path, case: str) -> tuple[Path, Path]:
    """Paths of a case's DWI volume and of its expert mask."""
    folder = root / "volumes" / case
    return folder / f"{case}_dwi.nii.gz", folder / f"{case}_msk.nii.gz"


def volume_images(root: Path, case: str, spec: SliceSpec = SPEC) -> Images:
    """All slices with brain of a DWI volume; masks are zero where it has none."""
    labelled = _labelled(root, case)
    return _images(labelled, spec.of(Modality.DWI))


def series_images(series: Series, spec: SliceSpec = SPEC) -> Images:
    """All slices with brain of a volunteer's DWI, as it is."""
    volume, _ = series.load()
    return _images(_without_lesion(volume, series.volunteer), spec.of(Modality.DWI))


def _labelled(root: Path, case: str) -> Labelled:
    image, mask = volume_paths(root, case)
    volume = replace(load_volume(image), name=case)
    truth = load_volume(mask).data if mask.exists() else np.zeros_like(volume.data)
    return Labelled(volume, truth, find_brain(volume).mask)


def _without_lesion(volume: Volume, name: str) -> Labelled:
    volume = replace(volume, name=name)
    return Labelled(volume, np.zeros_like(volume.data), find_brain(volume).mask)


def _versions(root: Path, case: str, rng: Generator) -> Images:
    """A whole volume as it is, and at other b-values with other coils and brain masks."""
    labelled = _labelled(root, case)
    adc = load_volume(volume_paths(root, case)[0].with_name(f"{case}_adc.nii.gz")).data
    adc = adc * np.float32(_BRAIN_ADC / np.median(adc[labelled.brain & (adc > 0)]))
    b0 = np.maximum(labelled.volume.data, 0) * np.exp(_USUAL_B * adc.clip(0, 4e-3))
    parts = [_images(labelled, _DWI)]
    for _ in range(_VOLUME_VERSIONS - 1):
        share = rng.uniform(*_CLINICAL_B) / _USUAL_B
        changed = replace(labelled, volume=at_b(labelled.volume, b0, share))
        parts.append(_images(varied(changed, rng), _DWI))
    return _concatenated(parts)


def _volunteers(root: Path, rng: Generator) -> tuple[Images, Images]:
    """Slices of all volunteers to train on, at clinical b-values and above."""
    clinical: list[Images] = []
    high: list[Images] = []
    for series in find_series(root):
        if series.held_out:
            continue
        volume, b0 = series.load()
        case = _without_lesion(volume, series.volunteer)
        own = clinical if series.b is not None and series.b < _HIGH_B[0] else high
        own.append(_images(case, _DWI))
        for _ in range(_LESION_FREE_VERSIONS - 1):
            changed, pool = case, own
            if series.b is not None and b0 is not None:
                is_high = rng.random() < _HIGH_B_SHARE
                wanted = rng.uniform(*(_HIGH_B if is_high else _CLINICAL_B))
                changed = replace(case, volume=at_b(volume, b0, wanted / series.b))
                changed = replace(changed, volume=replace(changed.volume, name=series.volunteer))
                pool = high if is_high else clinical
            pool.append(_images(varied(changed, rng), _DWI))
    return _concatenated(clinical), _concatenated(high)


def _index(root: Path) -> list[dict[str, str]]:
    with (root / "isles22_slices" / "index.csv").open(newline="") as stream:
        return [r for r in csv.DictReader(stream) if r["case"] not in VALIDATION_VOLUMES]


def _held_out(rows: list[dict[str, str]]) -> list[str]:
    both = [r["case"] for r in rows if r["usable_both"] == "1" and r["case"] != TRAINING_VOLUME]
    return both[::_VALIDATION_EVERY]


def _isles(
    root: Path, cases: list[str], modality: Modality, rng: Generator, teacher: Teacher | None
) -> Images:
    return _stack(
        _isles_slice(root, case, modality, rng if version else None, teacher)
        for case in cases
        for version in range(_SLICE_VERSIONS)
    )


def _usable(row: dict[str, str], modality: Modality) -> bool:
    return (
        float(row[f"{modality}_brain_frac"]) > _SMALLEST_BRAIN_SHARE
        and float(row[f"{modality}_sat"]) < _LARGEST_SATURATED_SHARE
    )


def _isles_slice(
    root: Path, case: str, modality: Modality, rng: Generator | None, teacher: Teacher | None
) -> Images:
    """One slice as it is, or with another coil and brain mask if there is an `rng`."""
    labelled = _isles_case(root, case, modality)
    if teacher is not None and modality is Modality.DWI:
        labelled = teacher.softened(labelled)
    if rng is not None:
        labelled = varied(replace(labelled, volume=unsaturated(labelled.volume, rng)), rng)
    return _images(labelled, SPEC.of(modality))


def _isles_case(root: Path, case: str, modality: Modality) -> Labelled:
    with np.load(root / "isles22_slices" / f"{case}.npz") as archive:
        columns, rows = archive["spacing"]
        volume = _plane(archive[modality], (rows, -columns), case)
        truth = archive["mask"][:, :, None].astype(np.float32)
    return Labelled(volume, truth, stripped_brain(volume).mask)


def _isles_pair(root: Path, case: str, spec: SliceSpec) -> tuple[Images, Images]:
    """Both modalities in the brain and the geometry of the DWI, as at inference."""
    with np.load(root / "isles22_slices" / f"{case}.npz") as archive:
        columns, rows = archive["spacing"]
        dwi, flair = (_plane(archive[name], (rows, -columns), case) for name in ("dwi", "flair"))
        truth = archive["mask"][:, :, None].astype(np.float32)
    brain = stripped_brain(dwi).mask
    first, second = (
        _images(Labelled(volume, truth, brain), spec.of(modality))
        for volume, modality in ((dwi, Modality.DWI), (flair, Modality.FLAIR))
    )
    return first, second


def _soop(root: Path, rng: Generator) -> Images:
    with np.load(root / "soop" / "flair_slices.npz") as archive:
        flair, masks, subjects = archive["flair"], archive["mask"], archive["subject"]
    slices = (
        (_plane(image, (1.0, 1.0), str(subject)), mask[:, :, None].astype(np.float32))
        for image, mask, subject in zip(flair, masks, subjects, strict=True)
        if image.any()
    )
    return _stack(
        _images(
            varied(Labelled(volume, mask, stripped_brain(volume).mask), rng),
            SPEC.of(Modality.FLAIR),
        )
        for volume, mask in slices
    )


def _plane(image: NDArray[np.uint8], steps: tuple[float, float], name: str) -> Volume:
    """A single slice as a volume of one: rows to posterior, columns by `steps[1]` to the right."""
    rows, columns = steps
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    affine[:2, :2] = [[0.0, columns], [-rows, 0.0]]
    grid = Grid((image.shape[0], image.shape[1], 1), affine)
    return Volume(image[:, :, None].astype(np.float32), grid, name)


def _images(case: Labelled, spec: SliceSpec) -> Images:
    geometry, batch = all_slices((case.volume,), case.brain, spec)
    lesion = geometry.planes(case.truth)[batch.z].astype(np.float32).clip(0, 1)
    return Images(
        batch.images[:, 0], geometry.to_pixels(lesion), (case.volume.name,) * len(batch.z)
    )


def _mirrored(images: Images) -> Images:
    """The half on the patient's left, mirrored over the right."""
    half = images.pixels.shape[2] // 2
    pixels = images.pixels.copy()
    pixels[:, :, :half] = pixels[:, :, : half - 1 : -1]
    return Images(pixels, np.zeros_like(pixels), images.patients)


def _stack(parts: Iterator[Images]) -> Images:
    """Put images together, but for those without any contrast."""
    return _concatenated(
        [part for part in parts if part.pixels[part.pixels > 0].std() > _FLATTEST_TISSUE]
    )


def _concatenated(items: list[Images]) -> Images:
    return Images(
        np.concatenate([part.pixels for part in items]),
        np.concatenate([part.masks for part in items]),
        tuple(patient for part in items for patient in part.patients),
    )
