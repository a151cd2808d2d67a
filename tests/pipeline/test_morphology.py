"""Morphology, against what its definitions say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.pipeline.morphology import ball, dilate, erode, fill_holes, main_components

SPACINGS = [(3.0, 3.0, 3.0), (5.0, 2.0, 3.0), (np.inf, 1.5, 2.5), (1.0, 9.0, 9.0)]


def moved(mask: BoolArray, offsets: NDArray[np.intp], beyond: bool) -> NDArray[np.bool_]:
    """The mask moved by each of the offsets, with a value for what lies beyond its edges."""
    reach = int(np.abs(offsets).max(initial=0))
    padded = np.pad(mask, reach, constant_values=beyond)
    return np.stack(
        [
            padded[
                tuple(
                    slice(reach + n, reach + n + m) for n, m in zip(each, mask.shape, strict=True)
                )
            ]
            for each in offsets
        ]
    )


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@given(seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.02, 0.5, 0.9, 1.0]))
def test_dilation_and_erosion(spacing: tuple[float, float, float], seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((7, 9, 8)) < share
    offsets = ball(6.0, np.array(spacing))
    assert np.array_equal(dilate(mask, offsets), moved(mask, offsets, beyond=False).any(axis=0))
    assert np.array_equal(erode(mask, offsets), moved(mask, offsets, beyond=True).all(axis=0))


def test_components_of_similar_size_are_kept() -> None:
    mask = np.zeros((4, 20, 20), np.bool_)
    mask[:, 2:10, 2:10] = mask[:, 12:18, 12:18] = mask[0, 0, 19] = True
    kept = main_components(mask, 0.2)
    assert np.argwhere(mask & ~kept).tolist() == [[0, 0, 19]]
    alone = main_components(mask, 0.9)
    assert np.count_nonzero(alone) == 4 * 8 * 8
    assert np.array_equal(main_components(alone, 0.2), alone)


def test_holes_are_filled_slice_by_slice() -> None:
    mask = np.zeros((40, 9, 9), np.bool_)
    mask[1:39, 2:7, 2:7] = True
    mask[1:39, 4, 4] = False
    expected = mask.copy()
    expected[1:39, 4, 4] = True
    mask[20, 4, 2:5] = expected[20, 4, 2:5] = False
    fill_holes(mask)
    assert np.array_equal(mask, expected)
