import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline import banded
from cnnres_infer.pipeline.banded import Banded
from cnnres_infer.pipeline.brain import find_brain
from cnnres_infer.pipeline.resample import resampling
from cnnres_infer.pipeline.shading import remove_shading


def in_blocks(n_in: int, n_out: int, start: float, step: float) -> Banded:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(banded, "_MAX_WHOLE", 0)
        patch.setattr(banded, "_ROWS", 7)
        patch.setattr(banded, "_SPAN", 9)
        return resampling(n_in, n_out, start, step)


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(-80, 80),
    st.floats(0.05, 12),
)
def test_blocks_make_the_same_matrix(n_in: int, n_out: int, start: float, step: float) -> None:
    whole = resampling(n_in, n_out, start, step)
    parts = in_blocks(n_in, n_out, start, step)
    np.testing.assert_allclose(parts.dense(), whole.dense(), atol=1e-6)


@given(st.integers(20, 60), st.integers(20, 60), st.floats(-5, 5), st.floats(0.3, 3))
def test_blocks_give_the_same_products(n_in: int, n_out: int, start: float, step: float) -> None:
    whole = resampling(n_in, n_out, start, step)
    parts = in_blocks(n_in, n_out, start, step)
    assert len(parts.blocks) > 1
    data = np.random.default_rng(0).random((n_in, 3, 4), np.float32)
    np.testing.assert_allclose(parts.along_first(data), whole.along_first(data), atol=1e-5)
    rows, columns = data.transpose(1, 0, 2), data.transpose(1, 2, 0)
    np.testing.assert_allclose(parts.along_rows(rows), whole.along_rows(rows), atol=1e-5)
    np.testing.assert_allclose(
        parts.along_columns(columns), whole.along_columns(columns), atol=1e-5
    )


def test_a_line_of_ordinary_length_is_one_matrix() -> None:
    assert len(resampling(1024, 1024, 0.0, 1.0).blocks) == 1


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
