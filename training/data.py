"""Training images from the collections of real MRI, which have a README of their own.

Every image comes through `cnnres_infer.pipeline.slices`, as at inference.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.spec import SliceSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.brain import Brain, find_brain, stripped_brain
from cnnres_infer.pipeline.slices.batches import all_slices
from cnnres_infer.readers import load_volume

SPEC = SliceSpec(size=160, spacing=1.25, ceiling=2.0)
VALIDATION_VOLUMES = ("sub-strokecase0001", "sub-strokecase0003")
TRAINING_VOLUME = "sub-strokecase0002"
UNLABELLED_VOLUME = "sub-clinical01"

_SMALLEST_BRAIN_SHARE = 0.05
_LARGEST_SATURATED_SHARE = 0.3
_VALIDATION_EVERY = 5
_FLATTEST_TISSUE = 0.01


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
    validation
        Pairs (DWI, FLAIR) of ISLES'22 slices of other patients.
    """

    dwi: Images
    flair: Images
    volume: Images
    healthy: Images
    soop: Images
    validation: tuple[Images, Images]


def load_collections(root: Path) -> Collections:
    """Read everything below `root`.

    The validation patients are every fifth of the ISLES'22 patients with both
    modalities usable, in the order of their names.
    """
    rows = _index(root)
    held_out = _held_out(rows)
    dwi, flair = (
        _isles(
            root,
            [r["case"] for r in rows if _usable(r, channel) and r["case"] not in held_out],
            channel,
        )
        for channel in ("dwi", "flair")
    )
    return Collections(
        dwi=dwi,
        flair=flair,
        volume=volume_images(root, TRAINING_VOLUME),
        healthy=_mirrored(volume_images(root, UNLABELLED_VOLUME)),
        soop=_soop(root),
        validation=load_validation_slices(root),
    )


def load_validation_slices(root: Path) -> tuple[Images, Images]:
    """DWI and FLAIR slices of the patients held out, pixel on pixel, in the same order."""
    pairs = [_isles_pair(root, case) for case in _held_out(_index(root))]
    dwi, flair = zip(*pairs, strict=True)
    return _concatenated(list(dwi)), _concatenated(list(flair))


def volume_paths(root: Path, case: str) -> tuple[Path, Path]:
    """Paths of a case's DWI volume and of its expert mask."""
    folder = root / "volumes" / case
    return folder / f"{case}_dwi.nii.gz", folder / f"{case}_msk.nii.gz"


def volume_images(root: Path, case: str) -> Images:
    """All slices with brain of a DWI volume; masks are zero where it has none."""
    image, mask = volume_paths(root, case)
    volume = replace(load_volume(image), name=case)
    truth = load_volume(mask).data if mask.exists() else np.zeros_like(volume.data)
    return _images(volume, truth, find_brain(volume))


def _index(root: Path) -> list[dict[str, str]]:
    with (root / "isles22_slices" / "index.csv").open(newline="") as stream:
        return [r for r in csv.DictReader(stream) if r["case"] not in VALIDATION_VOLUMES]


def _held_out(rows: list[dict[str, str]]) -> list[str]:
    both = [r["case"] for r in rows if r["usable_both"] == "1" and r["case"] != TRAINING_VOLUME]
    return both[::_VALIDATION_EVERY]


def _isles(root: Path, cases: list[str], channel: str) -> Images:
    return _stack(_isles_slice(root, case, channel) for case in cases)


def _usable(row: dict[str, str], channel: str) -> bool:
    return (
        float(row[f"{channel}_brain_frac"]) > _SMALLEST_BRAIN_SHARE
        and float(row[f"{channel}_sat"]) < _LARGEST_SATURATED_SHARE
    )


def _isles_slice(root: Path, case: str, channel: str) -> Images:
    with np.load(root / "isles22_slices" / f"{case}.npz") as archive:
        columns, rows = archive["spacing"]
        volume = _plane(archive[channel], (rows, -columns), case)
        return _images(volume, archive["mask"][:, :, None], stripped_brain(volume))


def _isles_pair(root: Path, case: str) -> tuple[Images, Images]:
    """Both modalities in the brain and the geometry of the DWI, as at inference."""
    with np.load(root / "isles22_slices" / f"{case}.npz") as archive:
        columns, rows = archive["spacing"]
        dwi, flair = (_plane(archive[name], (rows, -columns), case) for name in ("dwi", "flair"))
        truth = archive["mask"][:, :, None]
    brain = stripped_brain(dwi)
    return _images(dwi, truth, brain), _images(flair, truth, brain)


def _soop(root: Path) -> Images:
    with np.load(root / "soop" / "flair_slices.npz") as archive:
        flair, masks, subjects = archive["flair"], archive["mask"], archive["subject"]
    volumes = (
        (_plane(image, (1.0, 1.0), str(subject)), mask[:, :, None])
        for image, mask, subject in zip(flair, masks, subjects, strict=True)
        if image.any()
    )
    return _stack(_images(volume, mask, stripped_brain(volume)) for volume, mask in volumes)


def _plane(image: NDArray[np.uint8], steps: tuple[float, float], name: str) -> Volume:
    """A single slice as a volume of one: rows to posterior, columns by `steps[1]` to the right."""
    rows, columns = steps
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    affine[:2, :2] = [[0.0, columns], [-rows, 0.0]]
    grid = Grid((image.shape[0], image.shape[1], 1), affine)
    return Volume(image[:, :, None].astype(np.float32), grid, name)


def _images(volume: Volume, truth: NDArray[np.floating | np.uint8], brain: Brain) -> Images:
    geometry, batch = all_slices((volume,), brain.mask, SPEC)
    lesion = (geometry.planes(truth)[batch.z] > 0).astype(np.float32)
    return Images(batch.images[:, 0], geometry.to_pixels(lesion), (volume.name,) * len(batch.z))


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
