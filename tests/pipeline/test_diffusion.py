"""ADC from b0 and DWI, and the lesions that it rejects."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.pipeline.diffusion import (
    adc_from_b0,
    brain_adc,
    is_plausible,
    is_unrestricted,
    lesion_adc,
    median_adc,
    mm2_per_s,
    restricted_shares,
    rises_together,
)

SHAPE = (10, 12, 4)


def brain() -> BoolArray:
    mask = np.zeros(SHAPE, np.bool_)
    mask[1:9, 1:11] = True
    return mask


def lesions() -> tuple[np.ndarray, FloatArray]:
    """Three lesions: of half of the brain's ADC, of all of it, and of none that is known."""
    labels = np.zeros(SHAPE, np.uint32)
    labels[2:4, 2:4, 1], labels[6:8, 2:4, 1], labels[2:4, 7:9, 2] = 1, 2, 3
    adc = np.where(brain(), 0.8e-3, 0).astype(np.float32)
    adc[labels == 1], adc[labels == 3] = 0.4e-3, np.nan
    return labels, adc


def relative_to_brain(labels: np.ndarray, adc: FloatArray) -> np.ndarray:
    return median_adc(lesion_adc(labels, adc)) / brain_adc(adc, brain())


def shares(labels: np.ndarray, adc: FloatArray, below: float) -> np.ndarray:
    return restricted_shares(lesion_adc(labels, adc), below * brain_adc(adc, brain()))


@given(adc=st.floats(1e-4, 4e-3), b=st.floats(200, 3000), scale=st.floats(1e-3, 1e6))
def test_adc_is_what_made_the_dwi(adc: float, b: float, scale: float) -> None:
    b0 = np.full(SHAPE, scale, np.float32)
    dwi = (b0 * np.exp(-b * adc)).astype(np.float32)
    np.testing.assert_allclose(adc_from_b0(dwi, b0, b), adc, rtol=1e-2, atol=2e-6)


def test_adc_is_unknown_where_an_intensity_is_not_positive() -> None:
    dwi, b0 = np.full(SHAPE, 1.0, np.float32), np.full(SHAPE, 2.0, np.float32)
    dwi[0], b0[1] = 0, -1
    adc = adc_from_b0(dwi, b0, 1000.0)
    assert np.isnan(adc[:2]).all()
    np.testing.assert_allclose(adc[2:], np.log(2) / 1000, rtol=1e-5)


@pytest.mark.parametrize("unit", [1.0, 1e3, 1e6])
def test_relative_adc_needs_no_unit(unit: float) -> None:
    labels, adc = lesions()
    relative = relative_to_brain(labels, adc * np.float32(unit))
    np.testing.assert_allclose(relative, [0.5, 1.0, np.nan], rtol=1e-5)


def test_lesions_that_do_not_restrict_diffusion_are_rejected() -> None:
    labels, adc = lesions()
    np.testing.assert_equal(shares(labels, adc, 0.9), [1, 0, np.nan])
    np.testing.assert_equal(shares(labels, adc, 0.4), [0, 0, np.nan])
    assert is_unrestricted(np.array([1, 0, np.nan]), 0.15).tolist() == [False, True, False]
    assert is_unrestricted(np.array([0.15, 0.149]), 0.15).tolist() == [False, True]


def test_a_small_lesion_restricts_diffusion_where_it_fills_the_voxels() -> None:
    labels, adc = lesions()
    x, y, z = (each[:3] for each in np.nonzero(labels == 1))
    adc[x, y, z] = 0.8e-3
    np.testing.assert_equal(shares(labels, adc, 0.85), [0.25, 0, np.nan])
    np.testing.assert_allclose(relative_to_brain(labels, adc), [1, 1, np.nan])


@given(
    labels=st.lists(st.integers(0, 6), min_size=24, max_size=24),
    adc=st.lists(st.floats(-10, 100, width=32) | st.just(float("nan")), min_size=24, max_size=24),
)
def test_a_lesion_is_measured_if_half_of_it_is_known(labels: list[int], adc: list[float]) -> None:
    numbers = np.array(labels, np.uint32).reshape(2, 3, 4)
    values = np.array(adc, np.float32).reshape(2, 3, 4)
    found = lesion_adc(numbers, values)
    assert len(found) == numbers.max()
    both = zip(median_adc(found), restricted_shares(found, 50.0), strict=True)
    for lesion, (median, share) in enumerate(both, 1):
        inside = values[numbers == lesion]
        known = inside[inside > 0]
        judged = known.size and 2 * known.size >= inside.size
        np.testing.assert_equal(median, np.median(known) if judged else np.nan)
        np.testing.assert_equal(share, np.mean(known < 50) if judged else np.nan)


@given(
    values=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=100, max_size=300)
)
def test_images_rise_together_as_their_ranks_do(values: list[tuple[int, int]]) -> None:
    dwi, other = (np.array(each, np.float32)[:, None, None] for each in zip(*values, strict=True))
    everywhere = np.ones(dwi.shape, np.bool_)
    together = rises_together(dwi, other, everywhere)
    if together is None:
        assert min(np.ptp(dwi), np.ptp(other)) == 0
        return
    assert together == pytest.approx(rises_together(other, dwi, everywhere))
    assert together == pytest.approx(rises_together(dwi**3, other, everywhere))
    fallen = rises_together(np.float32(1) / dwi, other, everywhere)
    assert fallen == pytest.approx(-together, abs=1e-6)
    assert rises_together(dwi, dwi, everywhere) == pytest.approx(1)
    assert rises_together(dwi[:99], other[:99], everywhere[:99]) is None


@pytest.mark.parametrize(
    ("median", "factor"),
    [(8e-4, 1.0), (0.8, 1e-3), (800, 1e-6), (60, None), (0, None), (-8e-4, None), (np.nan, None)],
)
def test_the_unit_is_told_by_the_brain(median: float, factor: float | None) -> None:
    assert mm2_per_s(median) == factor


@pytest.mark.parametrize("b", [900.0, 1500.0, 2500.0])
@pytest.mark.parametrize("median", [0.65e-3, 0.88e-3])
def test_another_scale_of_b0_is_noticed_where_b_is_known(b: float, median: float) -> None:
    assert is_plausible(median, b)
    assert is_plausible(median, None)
    for shift in (1e-3, -0.4e-3):
        assert not is_plausible(median + shift, b)
    assert not is_plausible(np.nan, b)


def test_without_lesions_or_adc_nothing_is_rejected() -> None:
    labels, adc = lesions()
    assert relative_to_brain(np.zeros_like(labels), adc).shape == (0,)
    unknown = np.zeros_like(adc)
    assert np.isnan(brain_adc(unknown, brain()))
    for nothing in (unknown, -adc, np.full_like(adc, np.nan)):
        assert not is_unrestricted(shares(labels, nothing, 0.9), 0.5).any()
