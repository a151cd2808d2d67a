"""Boxes around masks, whatever the order of their axes in memory."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.pipeline.box import bounding_box, profiles, widened

corners = st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 6))


@given(corners, corners, st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3))
def test_a_box_is_as_small_as_may_be(
    one: tuple[int, int, int],
    other: tuple[int, int, int],
    order: list[int],
    flips: tuple[bool, bool, bool],
) -> None:
    mask = np.zeros((5, 6, 7), np.bool_)
    mask[one] = mask[other] = True
    view = mask.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    places = np.argwhere(view)
    expected = zip(places.min(axis=0), places.max(axis=0) + 1, strict=True)
    assert bounding_box(view) == tuple(slice(int(a), int(b)) for a, b in expected)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_profiles_tell_where_there_is_anything(
    order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    mask = np.random.default_rng(0).random((5, 6, 7)) < 0.02
    view = mask.transpose(order)[tuple(slice(None, None, flip) for flip in flips)]
    for each in (view, np.zeros_like(view), np.broadcast_to(view[:, :1], view.shape)):
        found = profiles(each)
        for axis, profile in enumerate(found):
            others = tuple({0, 1, 2} - {axis})
            assert np.array_equal(profile, each.any(axis=others))


def test_the_box_of_nothing_is_empty() -> None:
    assert bounding_box(np.zeros((3, 4, 5), np.bool_)) == (slice(0, 0),) * 3


def test_a_box_is_widened_as_far_as_the_volume_goes() -> None:
    box = (slice(2, 4), slice(0, 3), slice(5, 6))
    assert widened(box, (1, 2, 3), (9, 4, 7)) == (slice(1, 5), slice(0, 4), slice(2, 7))
