"""The result does not depend on the orientation of the voxel axes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnnres_infer import Predictor
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.result import Result
from cnnres_infer.core.volume import Volume
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.readers import load_volume
from tests.conftest import ORIENTATIONS, SHARED_DATA, blob_volume, oriented_affine, phantom_volume

Signs = tuple[int, ...]
REAL = sorted(SHARED_DATA.glob("volumes/sub-[cr]*/*_dwi.nii.gz"))


def reoriented(volume: Volume, order: tuple[int, ...], signs: Signs) -> Volume:
    """The same voxels at the same positions, with axes permuted and reversed."""
    data = np.ascontiguousarray(turned(volume.data, order, signs))
    affine = volume.grid.affine.copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            affine[:3, 3] += affine[:3, order[axis]] * (volume.grid.shape[order[axis]] - 1)
            affine[:3, order[axis]] *= -1
    affine[:3, :3] = affine[:3, list(order)]
    return Volume(data, Grid(data.shape, affine), volume.name)


def turned(data: NDArray[np.generic], order: tuple[int, ...], signs: Signs) -> NDArray[np.generic]:
    return data.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]


def assert_same(
    original: Result, other: Result, order: tuple[int, ...], signs: Signs, rounding: float = 0.0
) -> None:
    assert original.mask.data.any()
    expected = turned(original.probabilities.data, order, signs).astype(np.float32)
    np.testing.assert_allclose(other.probabilities.data, expected, rtol=0, atol=rounding)
    assert np.array_equal(other.mask.data, turned(original.mask.data, order, signs))
    assert len(other.lesions) == len(original.lesions)
    for one, two in zip(original.lesions, other.lesions, strict=True):
        assert one.voxels == two.voxels
    centres = [sorted(lesion.centre_mm for lesion in r.lesions) for r in (original, other)]
    np.testing.assert_allclose(centres[0], centres[1], atol=1e-3)


@pytest.fixture(scope="module")
def bright(bright_bundle: Path) -> Predictor:
    return Predictor.load(bright_bundle, threads=1)


@pytest.fixture(scope="module")
def phantom(bright: Predictor) -> tuple[Volume, Result]:
    volume = phantom_volume(make_phantom(3))
    return volume, bright.predict(volume)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_the_48_orientations_of_a_phantom(
    bright: Predictor, phantom: tuple[Volume, Result], order: tuple[int, ...], signs: Signs
) -> None:
    volume, original = phantom
    assert_same(original, bright.predict(reoriented(volume, order, signs)), order, signs)


@settings(max_examples=30)
@given(
    st.sampled_from(ORIENTATIONS),
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[st.floats(-0.35, 0.35)] * 3),
    st.tuples(st.floats(1.5, 3.0), st.floats(1.5, 3.0), st.floats(3.0, 6.0)),
)
def test_random_affines(
    bright: Predictor,
    first: tuple[tuple[int, ...], Signs],
    second: tuple[tuple[int, ...], Signs],
    tilt: tuple[float, float, float],
    spacing: tuple[float, float, float],
) -> None:
    shape: tuple[int, ...] = tuple(
        int(n) for n in np.ceil(np.array([140.0, 170.0, 130.0]) / spacing)
    )
    affine = oriented_affine((0, 1, 2), (-1, 1, 1), spacing, tilt, (shape[0], shape[1], shape[2]))
    straight, ball = blob_volume((shape[0], shape[1], shape[2]), affine)
    volume = reoriented(straight, *first)
    original = bright.predict(volume)
    assert_same(original, bright.predict(reoriented(volume, *second)), *second)
    expected = np.count_nonzero(ball) * straight.grid.voxel_ml
    assert original.mask.volume_ml == pytest.approx(expected, rel=0.25)
    centre = np.array(original.lesions[0].centre_mm)
    assert np.linalg.norm(centre - (20.0, 10.0, 5.0)) < 2.0


@pytest.mark.parametrize("path", REAL or [Path("none")], ids=lambda path: path.name)
@pytest.mark.usefixtures("shared_data")
def test_real_volumes_in_some_orientations(path: Path) -> None:
    volume = load_volume(path)
    # Shading is estimated by sums along memory, which 8 bits would show.
    with Predictor.load(None, "ort", "fp32") as predictor:
        original = predictor.predict(volume)
        if not original.lesions:
            pytest.skip("nothing was found in it")
        for order, signs in ORIENTATIONS[5::21]:
            other = predictor.predict(reoriented(volume, order, signs))
            assert_same(original, other, order, signs, rounding=2e-5)
