"""Slices are cut to their brains and put back exactly, mirrored slices in mirrored boxes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.batch import SliceBatch
from cnnres_infer.core.crops import box_shape, computed, crop_box, cropped

SIDES = (96, 128, 160)
SIZE = 160

spans = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(
    lambda pair: (pair[0], min(SIZE, pair[0] + pair[1]))
)
rectangles = st.tuples(spans, spans)


def slices(*brains: tuple[tuple[int, int], tuple[int, int]], channels: int = 1) -> FloatArray:
    """Images with a rectangle of brain each, no two pixels of which are alike."""
    images = np.zeros((len(brains), channels, SIZE, SIZE), np.float32)
    values = np.linspace(0.1, 1.0, images.size, dtype=np.float32).reshape(images.shape)
    for image, value, ((top, bottom), (left, right)) in zip(images, values, brains, strict=True):
        image[:, top:bottom, left:right] = value[:, top:bottom, left:right]
    return images


@given(rectangles)
def test_a_box_holds_the_brain_and_is_as_small_as_may_be(
    brain: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    (image,) = slices(brain)
    for box, (first, end) in zip(crop_box(image, SIDES), brain, strict=True):
        length = box.stop - box.start
        assert 0 <= box.start <= first < end <= box.stop <= SIZE
        assert length == min(side for side in SIDES if side >= end - first)


@given(rectangles)
def test_the_box_of_a_mirrored_slice_is_the_mirrored_box(
    brain: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    (image,) = slices(brain)
    rows, columns = crop_box(image, SIDES)
    for flipped, box, axis in (
        (image[:, ::-1], rows, 0),
        (image[:, :, ::-1], columns, 1),
    ):
        mirrored = crop_box(flipped, SIDES)[axis]
        assert (mirrored.start, mirrored.stop) == (SIZE - box.stop, SIZE - box.start)
        assert crop_box(flipped, SIDES)[1 - axis] == (rows, columns)[1 - axis]


@pytest.mark.parametrize("level", [0.0, 0.01])
def test_what_is_next_to_nothing_is_no_brain(level: float) -> None:
    image = np.full((1, SIZE, SIZE), level, np.float32)
    assert crop_box(image, SIDES) == (slice(32, 128), slice(32, 128))
    image[0, 20:60, 150] = 0.5
    assert crop_box(image, SIDES) == (slice(0, 96), slice(64, 160))


@given(st.lists(rectangles, min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 5))
def test_cutting_and_putting_back_are_inverse(
    brains: list[tuple[tuple[int, int], tuple[int, int]]], batch_size: int, given_size: int
) -> None:
    images = slices(*brains, channels=2)
    z = np.arange(len(images)) * 3 + 7
    parts = [
        SliceBatch(images[i : i + given_size], z[i : i + given_size])
        for i in range(0, len(images), given_size)
    ]
    back: dict[int, FloatArray] = {}
    full: Counter[tuple[int, ...]] = Counter()
    for batch in cropped(parts, SIDES, batch_size):
        shape = batch.images.shape[2:]
        assert 1 <= len(batch.images) == len(batch.z) <= batch_size
        assert set(shape) <= set(SIDES)
        assert full[shape] == 0, "only the last batch of a shape may be smaller"
        full[shape] += len(batch.images) < batch_size
        assert not back.keys() & set(batch.z.tolist())
        back |= dict(zip(batch.z.tolist(), batch.framed(batch.images), strict=True))
    assert sorted(back) == z.tolist()
    assert np.array_equal(np.stack([back[i] for i in z.tolist()]), images)


@given(st.lists(rectangles, min_size=1, max_size=6))
def test_the_part_that_holds_the_brain_is_enough(
    brains: list[tuple[tuple[int, int], tuple[int, int]]],
) -> None:
    images, z = slices(*brains), np.arange(len(brains))
    rows, columns = (
        slice(min(each[axis][0] for each in brains), max(each[axis][1] for each in brains))
        for axis in range(2)
    )
    places = ((rows, columns),) * len(images)
    part = SliceBatch(images[:, :, rows, columns], z, places, (SIZE, SIZE))
    whole = SliceBatch(images, z)
    for one, other in zip(cropped([part], SIDES, 2), cropped([whole], SIDES, 2), strict=True):
        assert one.boxes == other.boxes
        assert one.frame == other.frame
        assert np.array_equal(one.z, other.z)
        assert np.array_equal(one.images, other.images)


def test_whole_slices_are_put_back_as_they_are() -> None:
    images = slices(((3, 20), (4, 9)))
    assert SliceBatch(images, np.array([5])).framed(images) is images


@given(st.lists(rectangles, max_size=9))
def test_what_is_not_computed_is_zero(
    brains: list[tuple[tuple[int, int], tuple[int, int]]],
) -> None:
    images, ran = slices(*brains), []

    def network(batch: FloatArray) -> FloatArray:
        ran.append(batch.shape)
        return np.ones((len(batch), 1, *batch.shape[2:]), np.float32)

    output = computed(network, images, SIDES, 4)
    assert output.shape == images.shape
    for image, answer in zip(images, output, strict=True):
        inside = np.zeros_like(answer)
        inside[:, *crop_box(image, SIDES)] = 1
        assert np.array_equal(answer, inside)
    found: Counter[tuple[int, ...]] = Counter()
    for count, _, *shape in ran:
        found[tuple(shape)] += count
    assert found == Counter(box_shape(image, SIDES) for image in images) or not brains


def test_one_size_is_computed_whole() -> None:
    images = slices(((60, 90), (60, 90)), ((0, 160), (0, 160)), ((0, 9), (0, 9)))
    ran: list[int] = []

    def network(batch: FloatArray) -> FloatArray:
        assert batch.shape[1:] == (1, SIZE, SIZE)
        ran.append(len(batch))
        return batch + 1

    for sides in ((), (SIZE,)):
        assert np.array_equal(computed(network, images, sides, 2), images + 1)
    assert ran == [2, 1, 2, 1]
