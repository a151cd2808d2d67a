import torch
from torch import Generator, Tensor

from training.views import FRAMES, View, brain_boxes, draw_frame


def images(count: int = 12) -> Tensor:
    """Brains of 90 x 70 pixels, no two pixels alike, in frames of 160 x 160."""
    whole = torch.zeros(count, 1, 160, 160)
    whole[:, :, 30:120, 50:120] = 1 + torch.arange(90 * 70.0).view(1, 1, 90, 70) / 10_000
    return whole


def test_boxes_hold_the_brains() -> None:
    assert brain_boxes(images())[0].tolist() == [30, 120, 50, 120]
    assert brain_boxes(torch.zeros(1, 1, 160, 160))[0].tolist() == [0, 160, 0, 160]


def test_frames_hold_the_brains_at_random_places() -> None:
    view = View.draw(images(), (128, 96), 0.0, Generator().manual_seed(0))
    shown = view.of(images())
    assert shown.shape == (12, 1, 128, 96)
    assert ((shown > 0).sum(dim=(1, 2, 3)) == 90 * 70).all()
    assert len(torch.unique(view.top)) > 5
    assert len(torch.unique(view.left)) > 5


def test_frames_that_are_too_small_hold_a_part() -> None:
    shown = View.draw(images(), (64, 64), 0.0, Generator().manual_seed(0)).of(images())
    assert (shown > 0).all()


def test_answers_lie_where_another_view_sees_them() -> None:
    generator = Generator().manual_seed(1)
    first = View.draw(images(), (128, 96), 0.5, generator)
    second = View.draw(images(), (96, 128), 0.5, generator)
    moved, known = second.as_seen_by(first, second.of(images()))
    assert torch.equal(moved, first.of(images()))
    assert (known[moved > 0] == 1).all()
    assert (first.mirrored != second.mirrored).any()


def test_frames_are_multiples_of_the_networks_reduction() -> None:
    generator = Generator().manual_seed(2)
    drawn = {draw_frame(generator) for _ in range(200)}
    assert len(drawn) > 4
    assert drawn <= set(FRAMES)
    assert all(extent % 32 == 0 for frame in FRAMES for extent in frame)
