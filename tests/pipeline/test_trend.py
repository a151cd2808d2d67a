"""Quadratics are found again, whatever weights positions have."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnres_infer.pipeline import trend

SHAPE = (12, 15, 9)


def places(shape: Sequence[int] = SHAPE) -> list[NDArray[np.float64]]:
    """Positions in mm on each axis, around zero."""
    return [4.0 * (np.arange(n, dtype=np.float64) - (n - 1) / 2) for n in shape]


def test_a_quadratic_is_found_again() -> None:
    rng = np.random.default_rng(0)
    positions = places()
    x, y, z = np.meshgrid(*(each / 28 for each in positions), indexing="ij")
    truth = 0.2 + 0.5 * x - 0.3 * y + 0.1 * z + 0.2 * x * x - 0.4 * x * y + 0.3 * z * y
    weight = (rng.random(SHAPE) * (rng.random(SHAPE) > 0.5)).astype(np.float32)
    found = trend.fitted(weight, (weight * truth).astype(np.float32), trend.powers(positions))
    # What bends is damped a little.
    assert np.abs(found - truth).max() < 0.15
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.99


def test_a_plane_is_found_exactly() -> None:
    positions = places()
    x, y, z = np.meshgrid(*(each / 28 for each in positions), indexing="ij")
    truth = (0.2 + 0.5 * x - 0.3 * y + 0.1 * z).astype(np.float32)
    found = trend.fitted(np.ones(SHAPE, np.float32), truth, trend.powers(positions))
    np.testing.assert_allclose(found, truth, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_of_one_voxel_does_not_matter(axis: int) -> None:
    shape = list(SHAPE)
    shape[axis] = 1
    weight = np.ones(shape, np.float32)
    found = trend.fitted(weight, 3 * weight, trend.powers(places(shape)))
    np.testing.assert_allclose(found, 3, rtol=1e-4)
