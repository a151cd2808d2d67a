"""Voxels are selected and counted as NumPy does, whatever their order in memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.pipeline.slices.normalisation import ranked
from cnnres_infer.pipeline.voxels import counts, nonzero_in, sample, voxels_in


@pytest.mark.parametrize("data_is_fortran", [False, True])
@pytest.mark.parametrize("mask_is_fortran", [False, True])
def test_voxels_of_a_mask(data_is_fortran: bool, mask_is_fortran: bool) -> None:
    rng = np.random.default_rng(0)
    data, mask = rng.random((5, 6, 7), np.float32), rng.random((5, 6, 7)) < 0.4
    found = voxels_in(
        np.asfortranarray(data) if data_is_fortran else data,
        np.asfortranarray(mask) if mask_is_fortran else mask,
    )
    assert sorted(found.tolist()) == sorted(data[mask].tolist())


@pytest.mark.parametrize("is_fortran", [False, True])
def test_voxels_that_are_not_zero(is_fortran: bool) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 3, (40, 6, 37)).astype(np.float32)
    mask = rng.random(data.shape) < 0.4
    found = nonzero_in(np.asfortranarray(data) if is_fortran else data, mask)
    expected = data[mask]
    assert sorted(found.tolist()) == sorted(expected[expected != 0].tolist())


@pytest.mark.parametrize("axis", [0, 1, 2, (0, 1), (1, 2)])
def test_counts(axis: int | tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).random((300, 4, 5)) < 0.9
    for each in (mask, mask.T[::-1], mask[:, ::-1]):
        assert np.array_equal(counts(each, axis), np.count_nonzero(each, axis=axis))


def test_a_sample_takes_the_same_voxels_of_arrays_alike() -> None:
    data = np.asfortranarray(np.random.default_rng(0).random((20, 30, 40)))
    few, at_once = sample(data, 1000), sample(data > 0.5, 1000)
    assert 500 <= len(few) <= 1000
    assert np.array_equal(few > 0.5, at_once)
    assert len(sample(data, data.size)) == data.size


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_a_sample_of_a_flipped_array_needs_no_copy_of_it(flips: tuple[int, int, int]) -> None:
    data = np.asfortranarray(np.random.default_rng(0).random((50, 60, 70)))
    flipped = data[tuple(slice(None, None, flip) for flip in flips)]
    tracemalloc.start()
    try:
        found = sample(flipped, 1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < data.nbytes / 10
    assert np.array_equal(found, sample(flipped.copy(order="K"), 1000))


@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_ranks_are_quantiles(numbers: list[int], part: float) -> None:
    values = np.array(numbers, np.float32)
    found = ranked(values.copy(), part * (len(values) - 1))
    assert found == pytest.approx(np.quantile(values.astype(float), part), abs=1e-5)
