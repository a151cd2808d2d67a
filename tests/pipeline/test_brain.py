"""Brain masks of synthetic heads with known anatomy and of real volumes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import GeometryError, VolumeError
from cnnres_infer.pipeline.brain import brain_from_mask, extract_brain, find_brain
from cnnres_infer.readers import load_volume
from cnnres_infer.verification.agreement import dice
from tests.conftest import oriented_affine

LAS = ((0, 1, 2), (-1, 1, 1))
THICK = Grid((100, 116, 32), oriented_affine(*LAS, (2.0, 2.0, 5.0), shape=(100, 116, 32)))
NOISE = 0.05
LESION_MM = (-38.0, 10.0, 15.0)


@dataclass(frozen=True)
class Contrast:
    """Intensities relative to the brain."""

    fluid: float
    scalp: float
    eyes: float


CONTRASTS = {
    "dwi": Contrast(fluid=0.25, scalp=0.15, eyes=0.2),
    "b0": Contrast(fluid=2.4, scalp=0.35, eyes=2.5),
    "flair": Contrast(fluid=0.12, scalp=1.4, eyes=0.3),
}


@dataclass(frozen=True)
class Head:
    volume: Volume
    brain: BoolArray
    lesion: BoolArray


def ball(mm: NDArray[np.float64], centre: tuple[float, ...], radii: tuple[float, ...]) -> BoolArray:
    inside: BoolArray = (((mm - centre) / radii) ** 2).sum(axis=-1) <= 1
    return inside


def make_head(
    grid: Grid = THICK, contrast: str = "dwi", air: float = NOISE, lesion: float = 1.0
) -> Head:
    """An ellipsoidal brain with ventricles, dark skull, scalp, eyes and optic nerves.

    `air` is the noise outside the head, which is zero if the scanner masks the
    background; `lesion` is the brightness of a ball at the surface.
    """
    look = CONTRASTS[contrast]
    mm = grid.to_mm(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float))
    head, skull, brain = (
        ball(mm, (0, 0, 0), radii) for radii in ((80, 98, 76), (74, 92, 70), (66, 83, 62))
    )
    stroke = ball(mm, LESION_MM, (32, 32, 32)) & brain
    data = np.where(head, look.scalp, 0.0)
    data[skull] = 0.06
    for side in (-1, 1):
        data[ball(mm, (side * 34, 80, -20), (12, 12, 12))] = look.eyes
        data[ball(mm, (side * 22, 60, -20), (3, 25, 3))] = 0.6
    data[brain] = 1.0
    data[stroke] = lesion
    for side in (-1, 1):
        data[ball(mm, (side * 12, 0, 5), (7, 30, 10))] = look.fluid
    noise = np.random.default_rng(0).normal(size=(2, *grid.shape)) * np.where(head, NOISE, air)
    data = 200 * np.hypot(data * (1 + mm[..., 0] / 500) + noise[0], noise[1])
    return Head(Volume(data.astype(np.float32), grid, contrast), brain, stroke)


def stripped(head: Head, rest: float = 0.0) -> Volume:
    data = np.where(head.brain, head.volume.data, np.float32(rest))
    return Volume(data, head.volume.grid, "stripped")


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((100, 116, 32), (2.0, 2.0, 5.0)),
        ((200, 232, 26), (1.0, 1.0, 6.0)),
        ((80, 92, 64), (2.5, 2.5, 2.5)),
        ((100, 116, 8), (2.0, 2.0, 5.0)),
        ((100, 116, 3), (2.0, 2.0, 5.0)),
        ((100, 116, 1), (2.0, 2.0, 5.0)),
    ],
    ids=str,
)
def test_a_head_is_stripped(
    contrast: str, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    head = make_head(Grid(shape, oriented_affine(*LAS, spacing, shape=shape)), contrast)
    brain = find_brain(head.volume)
    assert brain.source == "extracted"
    assert brain.mask.shape == shape
    assert dice(brain.mask, head.brain) > 0.95


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)], ids=["axial", "sag", "cor"])
@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_orientation_does_not_matter(order: tuple[int, int, int], tilt: float) -> None:
    shape = tuple(np.take((80, 92, 32), np.argsort(order)).tolist())
    spacing = tuple(np.take((2.5, 2.5, 5.0), np.argsort(order)).tolist())
    affine = oriented_affine(order, (1, -1, -1), spacing, (tilt, 0, 0), shape)
    head = make_head(Grid(shape, affine), "flair")
    assert dice(find_brain(head.volume).mask, head.brain) > 0.95


def test_a_sheared_grid() -> None:
    affine = np.array(THICK.affine)
    affine[1, 2] = 1.0
    head = make_head(Grid(THICK.shape, affine))
    assert dice(find_brain(head.volume).mask, head.brain) > 0.95


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("slices", [32, 3, 1])
def test_a_head_with_a_zero_background_is_not_taken_as_stripped(contrast: str, slices: int) -> None:
    shape = (100, 116, slices)
    grid = Grid(shape, oriented_affine(*LAS, (2.0, 2.0, 5.0), shape=shape))
    head = make_head(grid, contrast, air=0.0)
    brain = find_brain(head.volume)
    assert brain.source == "extracted"
    assert dice(brain.mask, head.brain) > 0.95


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("rest", [0.0, 1e-14, 1.0])
def test_a_stripped_volume_is_recognised(contrast: str, rest: float) -> None:
    head = make_head(contrast=contrast)
    brain = find_brain(stripped(head, rest))
    assert brain.source == "stripped"
    assert (brain.mask == head.brain).all()


def test_holes_are_filled() -> None:
    head = make_head()
    hole = ball(
        THICK.to_mm(np.moveaxis(np.indices(THICK.shape), 0, -1).astype(float)), (0, 0, 0), (9, 9, 9)
    )
    data = stripped(head).data.copy()
    data[hole] = 0.0
    brain = find_brain(Volume(data, THICK))
    assert brain.source == "stripped"
    assert brain.mask[hole].all()
    assert extract_brain(Volume(data, THICK))[hole].all()


@pytest.mark.parametrize("brightness", [0.3, 2.5, 6.0])
def test_a_large_lesion_at_the_surface_is_kept(brightness: float) -> None:
    head = make_head(lesion=brightness)
    assert find_brain(stripped(head)).mask[head.lesion].all()
    if brightness > 1:
        found = find_brain(head.volume)
        assert dice(found.mask, head.brain) > 0.95
        assert found.mask[head.lesion].mean() > 0.99


def test_extraction_hardly_changes_a_stripped_volume() -> None:
    head = make_head()
    assert dice(extract_brain(stripped(head)), head.brain) > 0.95


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 9, 9), (4, 4, 4), (40, 40, 1)])
def test_tiny_volumes(shape: tuple[int, int, int]) -> None:
    data = np.zeros(shape, np.float32)
    data[..., -1] = 100.0
    brain = find_brain(Volume(data, Grid(shape, np.eye(4))))
    assert brain.mask[data > 0].all()


def test_a_last_slice_with_the_tips_of_gyri() -> None:
    shape = (100, 116, 1)
    data = np.zeros(shape, np.float32)
    for x, y in ((44, 50), (46, 60), (55, 48), (56, 64)):
        data[x : x + 2, y : y + 3] = 150.0
    brain = find_brain(Volume(data, Grid(shape, oriented_affine(*LAS, (2.0, 2.0, 2.0)))))
    assert brain.source == "stripped"
    assert (brain.mask == (data > 0)).all()


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(VolumeError, match="`brain_mask`"):
        find_brain(Volume(np.zeros(THICK.shape, np.float32), THICK, "empty"))


def test_a_negative_image_is_refused() -> None:
    data = -make_head().volume.data - 1
    with pytest.raises(VolumeError):
        find_brain(Volume(data, THICK, "negative"))


def test_the_mask_is_read_only() -> None:
    head = make_head()
    for brain in (find_brain(head.volume), find_brain(stripped(head))):
        assert not brain.mask.flags.writeable


def test_a_given_mask_is_used() -> None:
    head = make_head()
    mask = Volume(np.where(head.brain, np.float32(0.9), np.float32(0.4)), THICK, "mask")
    brain = brain_from_mask(mask, head.volume)
    assert brain.source == "given"
    assert (brain.mask == head.brain).all()


def test_a_given_mask_must_lie_on_the_grid() -> None:
    affine = np.array(THICK.affine)
    affine[0, 3] += 2.0
    mask = Volume(np.ones(THICK.shape, np.float32), Grid(THICK.shape, affine), "mask")
    with pytest.raises(GeometryError, match="another grid"):
        brain_from_mask(mask, make_head().volume)


@pytest.mark.parametrize(("millimetres", "fits"), [(0.002, True), (0.1, True), (0.11, False)])
def test_a_given_mask_may_be_a_tenth_of_a_millimetre_off(millimetres: float, fits: bool) -> None:
    affine = np.array(THICK.affine)
    affine[1, 3] += millimetres
    data = make_head().brain.astype(np.float32)
    mask = Volume(data, Grid(THICK.shape, affine), "mask")
    if fits:
        assert brain_from_mask(mask, make_head().volume).mask.any()
        return
    with pytest.raises(GeometryError, match="another grid"):
        brain_from_mask(mask, make_head().volume)


def test_a_given_mask_must_not_be_empty() -> None:
    mask = Volume(np.zeros(THICK.shape, np.float32), THICK, "mask")
    with pytest.raises(VolumeError):
        brain_from_mask(mask, make_head().volume)


def real(shared_data: Path, name: str) -> Volume:
    return load_volume(shared_data / "volumes" / name.rsplit("_", 1)[0] / f"{name}.nii.gz")


@pytest.mark.parametrize("kind", ["dwi", "b0"])
def test_a_real_head_is_stripped(shared_data: Path, kind: str) -> None:
    reference = real(shared_data, "sub-raw02_brainmask").data > 0.5
    brain = find_brain(real(shared_data, f"sub-raw02_{kind}"))
    assert brain.source == "extracted"
    assert dice(brain.mask, reference) > 0.92


@pytest.mark.parametrize(
    "name",
    [
        "sub-strokecase0001_dwi",
        "sub-strokecase0002_dwi",
        "sub-strokecase0003_dwi",
        "sub-clinical01_dwi",
        "sub-clinical01_flair",
    ],
)
def test_a_real_stripped_volume(shared_data: Path, name: str) -> None:
    volume = real(shared_data, name)
    brain = find_brain(volume)
    assert brain.source == "stripped"
    assert dice(brain.mask, np.abs(volume.data) > 1e-3) > 0.98
    assert dice(extract_brain(volume), brain.mask) > 0.95
    if "strokecase" in name:
        lesion = real(shared_data, name.replace("_dwi", "_msk")).data > 0.5
        assert brain.mask[lesion].mean() >= 0.99
        assert extract_brain(volume)[lesion].mean() >= 0.99
