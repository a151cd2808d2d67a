import numpy as np
import pytest
import torch

from training.batches import Batches, _rarity, _visible, _weights
from training.data import Collections, Images


def images(count: int, lesion: float = 0.9) -> Images:
    row, column = np.indices((160, 160))
    brain = ((row - 80) / 60) ** 2 + ((column - 80) / 50) ** 2 < 1
    place = (row - 60) ** 2 + (column - 55) ** 2 < 100
    pixels = np.where(place, lesion, np.where(brain, 0.5, 0.0)).astype(np.float32)
    many, masks = (np.repeat(x[None], count, axis=0) for x in (pixels, place.astype(np.float32)))
    return Images(many, masks, tuple(f"p{i}" for i in range(count)))


@pytest.fixture(scope="module")
def collections() -> Collections:
    some = images(3)
    return Collections(some, some, some, some, some, some, some, (some, some))


def test_a_seed_gives_the_same_pairs(collections: Collections) -> None:
    first, second = (Batches(collections, 7, torch.device("cpu")).draw() for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.copies, second.copies)


def test_both_views_show_the_same_lesions(collections: Collections) -> None:
    batches = Batches(collections, 0, torch.device("cpu"))
    for _ in range(3):
        pair = batches.draw()
        assert pair.images.shape == pair.masks.shape
        assert pair.copies.shape == pair.copied_masks.shape
        assert pair.images.shape[2] % 32 == pair.images.shape[3] % 32 == 0
        moved, known = pair.second.as_seen_by(pair.first, pair.copied_masks)
        assert torch.equal(moved, pair.masks * known)
        assert pair.images.min() >= 0
        assert pair.images.max() <= 1


def test_every_patient_is_drawn_as_often() -> None:
    weights = _weights(("a", "a", "a", "b", "c"), ("c",))
    assert weights[:3].sum() == pytest.approx(1)
    assert weights.tolist()[3:] == [1.0, 2.0]


def test_lesions_that_nobody_can_see_are_left_out() -> None:
    bright, faint = images(2), images(3, 0.52)
    assert len(_visible(bright)) == 2
    assert len(_visible(faint)) == 0
    assert len(_visible(Images(faint.pixels, np.zeros_like(faint.masks), faint.patients))) == 3


def test_rare_sizes_come_more_often() -> None:
    masks = np.zeros((4, 160, 160), np.float32)
    masks[1, :4, :4] = masks[2, :30, :30] = masks[3, :60, :60] = 1
    none, tiny, usual, giant = _rarity(masks).tolist()
    assert none == usual == 1
    assert tiny == giant > 1


def test_batches_are_so_many_times_as_large(collections: Collections) -> None:
    usual, larger = (Batches(collections, 0, torch.device("cpu"), n).draw() for n in (1, 2))
    assert len(larger.images) == 2 * len(usual.images)
