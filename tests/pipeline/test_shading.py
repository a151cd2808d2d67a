"""The coil's smooth field comes out, whatever orientation, unit and number of slices."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.box import bounding_box
from cnnres_infer.pipeline.shading import Shading, remove_shading

Shape = tuple[int, int, int]

SHAPE: Shape = (40, 48, 30)
SPACING = np.diag([4.0, 4.0, 4.0, 1.0])


def head(shape: Shape = SHAPE) -> tuple[Volume, BoolArray]:
    """A brain of texture with dark fluid, a bright lesion and nothing around it."""
    x, y, z = (np.linspace(-1.2, 1.2, n) if n > 1 else np.zeros(1) for n in shape)
    radius = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)
    brain = radius < 1
    data = np.random.default_rng(0).normal(100, 5, shape)
    data[radius < 0.25] = 20
    data[(x[:, None, None] - 0.5) ** 2 + y[:, None] ** 2 + z**2 < 0.15**2] = 220
    data[~brain] = 0
    return Volume(data.clip(0).astype(np.float32), Grid(shape, SPACING)), brain


def linear_gain(shape: tuple[int, ...], slopes: tuple[float, ...]) -> FloatArray:
    """A gain of ``exp(slope)`` at one end of each axis, and of its inverse at the other."""
    log = np.zeros(shape)
    for axis, slope in enumerate(slopes):
        ends = np.linspace(-slope, slope, shape[axis]) if shape[axis] > 1 else np.zeros(1)
        log += ends.reshape([-1 if i == axis else 1 for i in range(3)])
    return np.exp(log).astype(np.float32)


def spread(flat: Volume, reference: Volume, brain: BoolArray) -> float:
    """Standard deviation of the logarithm of what distinguishes two volumes, but for a factor."""
    inside = brain & (reference.data > 0)
    return float(np.std(np.log(flat.data[inside] / reference.data[inside])))


@given(
    slopes=st.tuples(*[st.floats(-0.34, 0.34)] * 3),
    bend=st.floats(-0.3, 0.3),
)
def test_a_smooth_gain_comes_out(slopes: tuple[float, float, float], bend: float) -> None:
    volume, brain = head()
    across = np.linspace(-1, 1, SHAPE[1], dtype=np.float32)[:, None]
    gain = linear_gain(SHAPE, slopes) * np.exp(np.float32(bend) * across**2)
    shaded = Volume(volume.data * gain, volume.grid)
    assert spread(remove_shading(shaded, brain), remove_shading(volume, brain), brain) < 0.02


def test_what_has_no_shading_stays() -> None:
    volume, brain = head()
    flat = remove_shading(volume, brain)
    assert spread(flat, volume, brain) < 0.03
    lesion = volume.data == 220
    assert np.median(flat.data[lesion]) == pytest.approx(220, rel=0.06)


def test_a_linear_gain_is_divided_out_of_even_tissue() -> None:
    _, brain = head()
    gain = linear_gain(SHAPE, (0.4, 0.2, -0.3))
    even = Volume(np.where(brain, 100 * gain, 0).astype(np.float32), Grid(SHAPE, SPACING))
    values = remove_shading(even, brain).data[brain]
    assert values.std() / values.mean() < 0.01


def test_geometry_and_input_stay() -> None:
    volume, brain = head()
    before = volume.data.copy()
    flat = remove_shading(volume, brain)
    assert np.array_equal(volume.data, before)
    assert flat.grid is volume.grid
    assert np.array_equal(flat.data > 0, volume.data > 0)
    assert flat.data.dtype == np.float32


@pytest.mark.parametrize("scale", [1e-28, 1e27])
def test_any_unit_will_do(scale: float) -> None:
    volume, brain = head()
    gain = linear_gain(SHAPE, (0.3, 0.0, 0.0))
    usual = remove_shading(Volume(volume.data * gain, volume.grid), brain)
    extreme = remove_shading(Volume(volume.data * gain * np.float32(scale), volume.grid), brain)
    np.testing.assert_allclose(extreme.data / np.float32(scale), usual.data, rtol=2e-3)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_orientation_will_do(order: tuple[int, int, int]) -> None:
    volume, brain = head()
    shaded = Volume(volume.data * linear_gain(SHAPE, (0.3, -0.2, 0.1)), volume.grid)
    turned = Volume(
        np.flip(shaded.data.transpose(order), 0).copy(),
        Grid((SHAPE[order[0]], SHAPE[order[1]], SHAPE[order[2]]), SPACING),
    )
    expected = np.flip(remove_shading(shaded, brain).data.transpose(order), 0)
    flat = remove_shading(turned, np.flip(brain.transpose(order), 0))
    np.testing.assert_allclose(flat.data, expected, rtol=1e-3)


@pytest.mark.parametrize("axis", range(3))
def test_a_single_slice_is_a_volume_of_one(axis: int) -> None:
    x, y, z = (1 if i == axis else n for i, n in enumerate(SHAPE))
    shape = (x, y, z)
    volume, brain = head(shape)
    slopes = (0.3, 0.2, -0.3)
    shaded = Volume(volume.data * linear_gain(shape, slopes), volume.grid)
    assert spread(remove_shading(shaded, brain), remove_shading(volume, brain), brain) < 0.02


@pytest.mark.parametrize("shape", [(3, 3, 1), (1, 1, 1), (40, 2, 1), (2, 2, 2)])
def test_few_voxels_are_a_volume_too(shape: Shape) -> None:
    data = np.random.default_rng(0).uniform(90, 110, shape).astype(np.float32)
    flat = remove_shading(Volume(data, Grid(shape, SPACING)), np.ones(shape, np.bool_))
    np.testing.assert_allclose(flat.data, data, rtol=0.3)


def test_extreme_values_overflow_nothing() -> None:
    data = np.full(SHAPE, 1e-30, np.float32)
    data[: SHAPE[0] // 2] = 1e30
    volume, brain = Volume(data, Grid(SHAPE, SPACING)), np.ones(SHAPE, np.bool_)
    with np.errstate(over="raise", invalid="raise"):
        shading = Shading.of(volume, brain, bounding_box(volume.grid.orientation.planes(brain)))
    assert shading is not None
    assert np.isfinite(shading.gain).all()
    assert np.abs(np.log(shading.gain)).max() < 20.1


def test_nothing_to_go_by() -> None:
    volume, brain = head()
    assert remove_shading(volume, np.zeros_like(brain)) is volume
    dark = Volume(np.zeros_like(volume.data), volume.grid)
    assert remove_shading(dark, brain) is dark
    one = np.zeros_like(brain)
    one[20, 24, 5] = True
    assert np.isfinite(remove_shading(volume, one).data).all()
