"""Phantoms: the same brain for a seed on any grid, with lesions of known volume."""

import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnnres_infer.core.arrays import Affine
from cnnres_infer.core.grid import Grid
from cnnres_infer.errors import GeometryError, UsageError
from cnnres_infer.phantom.head import Phantom, make_phantom
from cnnres_infer.phantom.lesion import PhantomLesion
from cnnres_infer.pipeline.brain import find_brain
from tests.conftest import phantom_volume

THICK = {"shape": (96, 96, 25), "spacing": (2.4, 2.4, 4.8)}
PLACE = (-30.0, -10.0, 20.0)


@cache
def phantom_of(seed: int = 0, modality: str = "dwi", healthy: bool = False) -> Phantom:
    return make_phantom(seed, modality=modality, lesions=() if healthy else None)


@cache
def thick(**options: Any) -> Phantom:
    return make_phantom(1, **THICK, **options)  # type: ignore[arg-type]


def around(
    place: tuple[float, float, float],
    spacing: float,
    size: int,
    angles: tuple[float, float] = (0.0, 0.0),
) -> Affine:
    """A cubic grid around a position, with axes to inferior, left and posterior, then rotated."""
    (a, b), (c, d) = ((np.cos(angle), np.sin(angle)) for angle in angles)
    turn = np.array([[a, -b, 0], [b, a, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, c, -d], [0, d, c]]
    affine = np.eye(4)
    affine[:3, :3] = spacing * turn @ [[0, -1, 0], [0, 0, -1], [-1, 0, 0]]
    affine[:3, 3] = place - affine[:3, :3] @ np.full(3, (size - 1) / 2)
    return affine


def centroid(mask: NDArray[np.generic], grid: Grid) -> NDArray[np.float64]:
    middle: NDArray[np.float64] = np.argwhere(mask).mean(axis=0)
    return grid.to_mm(middle)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_looks_like_a_volume_of_isles22() -> None:
    standard = phantom_of()
    data, grid = standard.data, phantom_volume(standard).grid
    assert data.dtype == np.float32
    assert np.isfinite(data).all()
    assert grid.shape == data.shape == standard.truth.shape == (112, 112, 72)
    assert (grid.affine.diagonal() == [-2, 2, 2, 1]).all()
    assert standard.truth.dtype == np.uint8
    assert 1000 < standard.brain.sum() * grid.voxel_ml < 1600
    assert 200 < np.median(data[standard.brain]) < 300
    assert not data[~standard.brain].any()
    assert not standard.truth[~standard.brain].any()


@pytest.mark.parametrize("seed", range(3))
def test_brain_keeps_clear_of_the_border(seed: int) -> None:
    brain = phantom_of(seed).brain
    assert brain[1:-1, 1:-1, 1:-1].sum() == brain.sum()


@pytest.mark.parametrize("seed", range(3))
def test_draws_one_to_three_lesions_brighter_than_tissue(seed: int) -> None:
    phantom = phantom_of(seed)
    assert 1 <= len(phantom.lesions) <= 3
    tissue = np.median(phantom.data[phantom.brain])
    assert 1.3 < np.median(phantom.data[phantom.truth > 0]) / tissue < 2.8


def test_a_seed_is_reproducible() -> None:
    first, again, other = phantom_of(), make_phantom(), phantom_of(1)
    assert (first.data == again.data).all()
    assert (first.truth == again.truth).all()
    assert first.lesions == again.lesions
    assert not (first.brain == other.brain).all()


@pytest.mark.parametrize("modality", ["dwi", "flair"])
def test_healthy_twin_differs_only_near_lesions(modality: str) -> None:
    ill, healthy = phantom_of(0, modality), phantom_of(0, modality, healthy=True)
    assert not healthy.truth.any()
    assert healthy.lesions == ()
    assert (ill.brain == healthy.brain).all()
    differs = abs(ill.data - healthy.data) > 0.01
    assert differs[ill.truth > 0].all()
    assert differs.sum() < 5 * ill.truth.sum() + 100


@settings(max_examples=10)
@given(
    radius=st.floats(6, 15),
    irregularity=st.floats(0, 0.95),
    outline=st.integers(0, 2**31),
    side=st.sampled_from((-1, 1)),
)
def test_truth_has_the_requested_volume(
    radius: float, irregularity: float, outline: int, side: int
) -> None:
    place = (side * PLACE[0], PLACE[1], PLACE[2])
    lesion = PhantomLesion(place, radius, 2.0, irregularity, outline)
    phantom = make_phantom(1, (42, 42, 42), lesions=[lesion], affine=around(place, 1.5, 42))
    held = phantom.truth.sum() * phantom_volume(phantom).grid.voxel_ml
    assert held == pytest.approx(lesion.volume_ml, rel=0.15)


def test_truth_of_several_lesions_has_their_volumes() -> None:
    lesions = (PhantomLesion((-36, -20, 22), 12), PhantomLesion((22, -52, -36), 8))
    phantom = make_phantom(2, lesions=lesions)
    right = (
        phantom_volume(phantom).grid.to_mm(np.argwhere(phantom.truth).astype(np.float64))[:, 0] > 0
    )
    grid = phantom_volume(phantom).grid
    for lesion, voxels in zip(lesions, ((~right).sum(), right.sum()), strict=True):
        held = voxels * grid.voxel_ml
        assert held == pytest.approx(lesion.volume_ml, rel=0.15)


def test_tiny_lesion_appears_in_the_truth() -> None:
    lesion = PhantomLesion(PLACE, 2.5)
    phantom = make_phantom(0, (9, 9, 9), lesions=[lesion], affine=around(PLACE, 2.0, 9))
    assert 1 <= phantom.truth.sum() <= 20


@settings(max_examples=10)
@given(spacing=st.floats(1.6, 3.5), angles=st.tuples(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6)))
def test_lesion_stays_in_place_on_any_grid(spacing: float, angles: tuple[float, float]) -> None:
    lesion = PhantomLesion(PLACE, 10)
    size = int(56 / spacing)
    plain, turned = (
        make_phantom(0, (n, n, n), lesions=[lesion], affine=affine)
        for n, affine in (
            (28, around(PLACE, 2.0, 28)),
            (size, around(PLACE, spacing, size, angles)),
        )
    )
    here, there = (
        centroid(phantom.truth, phantom_volume(phantom).grid) for phantom in (plain, turned)
    )
    assert np.linalg.norm(here - there) < spacing


def test_same_anatomy_on_an_oblique_grid() -> None:
    plain = phantom_of(0, healthy=True)
    grid = Grid((84, 84, 84), around((0, -8, 0), 2.4, 84, (0.3, -0.2)))
    turned = make_phantom(0, grid.shape, lesions=(), affine=grid.affine)
    inverse = np.linalg.inv(plain.affine)
    places = grid.to_mm(np.argwhere(turned.brain).astype(np.float64))
    index = np.rint(places @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    here, there = plain.data[tuple(index.T)], turned.data[turned.brain]
    assert np.corrcoef(here, there)[0, 1] > 0.6
    assert (here > 0).mean() > 0.97


def test_reversed_axis_gives_the_same_brain_reversed() -> None:
    plain = phantom_of(0, healthy=True)
    affine = plain.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (plain.brain.shape[0] - 1)
    affine[:3, 0] *= -1
    reversed_ = make_phantom(0, plain.brain.shape, lesions=(), affine=affine)
    assert (reversed_.brain[::-1] == plain.brain).all()


def test_thick_slices_hold_the_same_lesion() -> None:
    lesion = PhantomLesion(PLACE, 12)
    phantom = thick(lesions=(lesion,))
    grid = phantom_volume(phantom).grid
    assert grid.spacing == pytest.approx((2.4, 2.4, 4.8))
    assert phantom.truth.sum() * grid.voxel_ml == pytest.approx(lesion.volume_ml, rel=0.15)
    assert abs(centroid(phantom.truth, grid) - lesion.centre_mm).max() < 4.8


@pytest.mark.parametrize("modality", ["dwi", "flair"])
def test_brain_is_found_as_stripped(modality: str) -> None:
    phantom = phantom_of(0, modality)
    brain = find_brain(phantom_volume(phantom))
    assert brain.source == "stripped"
    assert dice(brain.mask, phantom.brain) > 0.99


@pytest.mark.parametrize("modality", ["dwi", "flair"])
def test_brain_is_found_in_a_head(modality: str) -> None:
    phantom = thick(modality=modality, skull=True)
    brain = find_brain(phantom_volume(phantom))
    assert brain.source == "extracted"
    assert dice(brain.mask, phantom.brain) > 0.9


def test_brain_is_the_same_with_and_without_skull() -> None:
    bare, phantom = thick(), thick(skull=True)
    assert (phantom.data > 0).all()
    assert (phantom.brain == bare.brain).all()
    assert (phantom.truth == bare.truth).all()


def test_grid_beside_the_brain_is_empty() -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 500
    phantom = make_phantom(shape=(8, 8, 8), affine=affine)
    assert not phantom.brain.any()
    assert not phantom.data.any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"radius_mm": 0},
        {"radius_mm": float("nan")},
        {"brightness": -1},
        {"irregularity": 1},
        {"irregularity": float("nan")},
        {"centre_mm": (0, float("inf"), 0)},
    ],
)
def test_impossible_lesions_are_refused(wrong: dict[str, object]) -> None:
    sound = {"centre_mm": (0.0, 0.0, 0.0), "radius_mm": 5.0}
    with pytest.raises(UsageError):
        PhantomLesion(**{**sound, **wrong})  # type: ignore[arg-type]


def test_unknown_modality_is_refused() -> None:
    with pytest.raises(UsageError, match="dwi"):
        make_phantom(modality="ct")


def test_singular_affine_is_refused() -> None:
    with pytest.raises(GeometryError):
        make_phantom(shape=(8, 8, 8), affine=np.zeros((4, 4)))


def test_import_is_light() -> None:
    code = (
        "import sys, cnnres_infer.phantom.head; "
        "print(*{'torch', 'scipy', 'nibabel', 'cc3d', 'PIL'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not run.stdout.strip()
