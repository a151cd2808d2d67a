import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.banded import Banded
from cnnres_infer.pipeline.brain import find_brain
from cnnres_infer.pipeline.resample import resampling
from cnnres_infer.pipeline.shading import remove_shading


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(-80, 80),
    st.floats(0.05, 12),
)
def test_products_are_those_of_the_dense_matrix(
    n_in: int, n_out: int, start: float, step: float
) -> None:
    matrix = resampling(n_in, n_out, start, step)
    dense = matrix.dense()
    assert dense.shape == (n_out, n_in)
    data = np.random.default_rng(0).random((n_in, 3, 4), np.float32)
    expected = np.tensordot(dense, data, 1)
    rows, columns = data.transpose(1, 0, 2), data.transpose(1, 2, 0)
    np.testing.assert_allclose(matrix.along_first(data), expected, atol=1e-5)
    np.testing.assert_allclose(matrix.along_rows(rows), expected.transpose(1, 0, 2), atol=1e-5)
    np.testing.assert_allclose(
        matrix.along_columns(columns), expected.transpose(1, 2, 0), atol=1e-5
    )


@given(st.integers(1, 60), st.integers(1, 60), st.integers(-30, 80), st.integers(1, 9))
def test_bands_that_begin_before_the_matrix_or_end_after_it(
    n_rows: int, n_columns: int, place: int, length: int
) -> None:
    first = np.arange(n_rows) + place - length
    band = np.random.default_rng(0).random((n_rows, length), np.float32)
    dense = Banded.of(n_columns, first, band).dense()
    for row, entries in enumerate(dense):
        for column, entry in enumerate(entries):
            offset = column - first[row]
            assert entry == (band[row, offset] if 0 <= offset < length else 0)


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(-20, 20),
    st.floats(0.05, 4),
    st.tuples(st.integers(0, 59), st.integers(1, 60)),
)
def test_a_part_of_the_columns(
    n_in: int, n_out: int, start: float, step: float, place: tuple[int, int]
) -> None:
    matrix = resampling(n_in, n_out, start, step)
    columns = slice(min(place[0], n_in - 1), min(place[0] + place[1], n_in))
    rows, part = matrix.over(columns)
    expected = matrix.dense()[:, columns]
    np.testing.assert_array_equal(part.dense(), expected[rows])
    sharing = matrix.dense()[expected.any(axis=1)].any(axis=0)
    found = np.zeros(n_in, np.bool_)
    found[matrix.reach(columns)] = True
    assert found[sharing].all()
    assert found.sum() == (np.ptp(np.flatnonzero(sharing)) + 1 if sharing.any() else 0)
    expected[rows] = 0
    assert not expected.any()


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.05, 12))
def test_rows_of_an_averaging_matrix_sum_to_one(n_in: int, n_out: int, step: float) -> None:
    step = min(step, (n_in - 0.5) / max(1, n_out - 1))
    matrix = resampling(n_in, n_out, 0.0, step).averaging()
    np.testing.assert_allclose(matrix.dense().sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_memory_does_not_grow_with_the_square_of_an_axis(axis: int) -> None:
    shape = [1, 1, 1]
    shape[axis] = 12_000
    data = np.random.default_rng(0).random(shape, np.float32) + np.float32(0.5)
    volume = Volume.from_array(data, np.diag([2.0, 2.0, 2.0, 1.0]))
    tracemalloc.start()
    try:
        brain = find_brain(volume)
        remove_shading(volume, brain.mask)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A whole matrix of this length would have 384 MB or more.
    assert peak < 150e6
