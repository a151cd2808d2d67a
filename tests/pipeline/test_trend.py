"""The trend of intensities follows what is smooth, and no edge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.pipeline.trend import fitted_trend

SHAPE = (20, 24, 18)
POSITIONS: list[NDArray[np.float64]] = [np.linspace(3.0 - 3 * n, 3 * n - 3.0, n) for n in SHAPE]
X, Y, Z = np.meshgrid(*(p / 75 for p in POSITIONS), indexing="ij")
BRAIN: BoolArray = X**2 + Y**2 + Z**2 < 0.6


def apart(first: FloatArray, second: FloatArray) -> float:
    """Largest difference inside the brain, but for a constant."""
    difference = (first - second)[BRAIN]
    return float(np.abs(difference - difference.mean()).max())


def tissue(seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(0, 0.05, SHAPE).astype(np.float32)


@given(st.lists(st.floats(-0.3, 0.3), min_size=6, max_size=6))
def test_a_smooth_field_comes_out_whatever_lies_below(slopes: list[float]) -> None:
    a, b, c, d, e, f = slopes
    field = (a * X + b * Y + c * Z + d * X * X + e * X * Y + f * Y**3).astype(np.float32)
    below = fitted_trend(tissue(), BRAIN, POSITIONS)
    assert apart(fitted_trend(tissue() + field, BRAIN, POSITIONS) - below, field) < 0.05


@pytest.mark.parametrize("brighter", [0.4, 0.7])
def test_an_infarct_of_a_hemisphere_stays(brighter: float) -> None:
    infarct = (X > 0.1) & (Y > -0.5)
    level = tissue() + np.float32(brighter) * infarct.astype(np.float32)
    found = fitted_trend(level, BRAIN, POSITIONS)
    inside, outside = BRAIN & infarct, BRAIN & ~infarct
    assert found[inside].mean() - found[outside].mean() < 0.2 * brighter


def test_mirrored_levels_have_the_mirrored_trend() -> None:
    level = tissue() + np.float32(0.3) * (X > 0.2).astype(np.float32)
    found = fitted_trend(level, BRAIN, POSITIONS)
    mirrored = fitted_trend(level[::-1].copy(), BRAIN[::-1].copy(), POSITIONS)
    np.testing.assert_allclose(mirrored[::-1], found, atol=1e-4)


@pytest.mark.parametrize("axis", range(3))
def test_a_single_slice_has_the_trend_of_its_axes(axis: int) -> None:
    middle = tuple(
        slice(n // 2, n // 2 + 1) if i == axis else slice(None) for i, n in enumerate(SHAPE)
    )
    positions = [np.zeros(1) if i == axis else each for i, each in enumerate(POSITIONS)]
    field = (0.3 * X - 0.2 * Y + 0.1 * Z + 0.2 * X * Y - 0.1 * Y * Z)[middle].astype(np.float32)
    found = fitted_trend(field, BRAIN[middle], positions)
    difference = (found - field)[BRAIN[middle]]
    assert np.ptp(difference) < 0.05


@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 3, 2), (2, 2, 2)])
def test_a_few_voxels_have_a_trend(shape: tuple[int, int, int]) -> None:
    level = np.random.default_rng(0).normal(0, 0.05, shape).astype(np.float32)
    positions = [np.linspace(3.0 - 3 * n, 3 * n - 3.0, n) for n in shape]
    found = fitted_trend(level, np.ones(shape, np.bool_), positions)
    assert np.abs(found).max() <= 2 * np.abs(level).max()


def test_without_neighbours_there_is_none() -> None:
    alone = np.zeros(SHAPE, np.bool_)
    alone[3, 4, 5] = True
    assert not fitted_trend(tissue(), alone, POSITIONS).any()
