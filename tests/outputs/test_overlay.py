import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ImageDraw

from cnnres_infer.core.grid import Grid
from cnnres_infer.core.mask import Mask
from cnnres_infer.outputs.writers.overlay import (
    _WHITE,
    BRAIN,
    OUTLINE,
    REJECTED,
    _caption,
    _dashed,
    _select_slices,
    display_white,
    draw_overlay,
)
from tests.conftest import ORIENTATIONS, blob_volume, oriented_affine


def outlined(overlay: NDArray[np.uint8]) -> NDArray[np.bool_]:
    lines: NDArray[np.bool_] = (overlay == np.array(OUTLINE)).all(axis=2)
    return lines


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::7])
def test_the_patients_right_is_on_the_left(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    shape = (30, 30, 30)
    affine = oriented_affine(order, signs, (5.0, 5.0, 5.0), shape=shape)
    volume, ball = blob_volume(shape, affine, centre_mm=(35.0, 30.0, 0.0))
    overlay = np.asarray(draw_overlay(volume, Mask(ball.astype(np.uint8), volume.grid)))
    tile = outlined(overlay[:224, :224])
    rows, columns = np.nonzero(tile)
    assert columns.mean() < 100
    assert rows.mean() < 100


def test_lesions_are_outlined_and_not_covered() -> None:
    volume, ball = blob_volume()
    overlay = np.asarray(draw_overlay(volume, Mask(ball.astype(np.uint8), volume.grid)))
    lines = outlined(overlay)
    assert lines.any()
    tiles = int(ball.any(axis=(0, 1)).sum())
    assert overlay.shape == (-(-tiles // 5) * 224 + 26, 5 * 224, 3)
    assert lines.sum() < 0.02 * lines.size


def test_only_some_of_many_slices_are_drawn_and_all_of_them_have_lesion() -> None:
    shape = (20, 20, 60)
    affine = oriented_affine((0, 1, 2), (-1, 1, 1), (8.0, 8.0, 2.0), shape=shape)
    volume, ball = blob_volume(shape, affine, centre_mm=(0.0, 0.0, 0.0), radius_mm=50)
    overlay = draw_overlay(volume, Mask(ball.astype(np.uint8), volume.grid))
    assert overlay.size == (5 * 224, 4 * 224 + 26)
    selected = np.flatnonzero(ball.any(axis=(0, 1)))[:20].tolist()
    assert _caption(Mask(ball.astype(np.uint8), volume.grid), ball, selected).endswith(
        f"20 of the {ball.any(axis=(0, 1)).sum()} slices with lesion shown"
    )
    empty = draw_overlay(volume, Mask(np.zeros(shape, np.uint8), volume.grid))
    assert not outlined(np.asarray(empty)).any()
    assert empty.size == (5 * 224, 2 * 224 + 26)


@pytest.mark.parametrize("largest", range(24))
def test_as_many_slices_as_fit_are_drawn_with_the_largest_among_them(largest: int) -> None:
    lesion = np.zeros((3, 3, 30), np.bool_)
    lesion[1, 1, 3:27] = True
    lesion[:, :, 3 + largest] = True
    selected = _select_slices(lesion, None)
    assert len(set(selected)) == 20
    assert 3 + largest in selected
    assert selected == sorted(selected)


def test_the_brain_is_outlined_below_the_lesions() -> None:
    volume, ball = blob_volume()
    mask = Mask(ball.astype(np.uint8), volume.grid)
    none = Mask(np.zeros_like(mask.data), volume.grid)
    without = np.asarray(draw_overlay(volume, mask))[:-26]
    drawn = np.asarray(draw_overlay(volume, mask, brain=mask))[:-26]
    assert np.array_equal(drawn, without)
    brain = np.asarray(draw_overlay(volume, none, rejected=mask, brain=mask))[:-26]
    blue = (brain == np.array(BRAIN)).all(axis=2)
    dashes = (brain == np.array(REJECTED)).all(axis=2)
    assert np.array_equal(blue | dashes, outlined(without))
    assert blue.any()
    assert dashes.any()


def test_rejected_lesions_are_dashed_and_have_slices_of_their_own() -> None:
    volume, ball = blob_volume()
    mask, none = Mask(ball.astype(np.uint8), volume.grid), np.zeros_like(ball, np.uint8)
    whole = np.asarray(draw_overlay(volume, mask))
    drawn = np.asarray(draw_overlay(volume, Mask(none, volume.grid), (), mask))
    assert drawn.shape == whole.shape
    dashes = (drawn == np.array(REJECTED)).all(axis=2)[:-26]
    line = outlined(whole)[:-26]
    assert not outlined(drawn).any()
    assert not dashes[~line].any()
    assert 0.3 * line.sum() < dashes.sum() < 0.7 * line.sum()


def test_the_caption_tells_small_lesions_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    volume, _ = blob_volume()
    some, others = (np.zeros(volume.grid.shape, np.uint8) for _ in range(2))
    some[30, 30, 10] = others[20, 20, 10] = 1
    written: list[str] = []

    def text(_draw: object, _place: object, text: str, fill: object) -> None:
        written.append(text)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    draw_overlay(volume, Mask(some, volume.grid), (), Mask(others, volume.grid))
    assert "blob: 0.03 ml in 1 slice; dashed yellow: 0.03 ml rejected by ADC" in written[-1]


def test_a_single_dark_slice() -> None:
    grid = Grid((8, 8, 1), np.eye(4))
    volume, _ = blob_volume((8, 8, 1), np.eye(4), (0.0, 0.0, 0.0), 1.0)
    overlay = draw_overlay(volume, Mask(np.zeros((8, 8, 1), np.uint8), grid))
    assert overlay.size[1] == 224 + 26


def test_short_outlines_are_solid() -> None:
    for row in range(8):
        for height, width in ((1, 1), (1, 3), (2, 3), (3, 3)):
            line = np.zeros((20, 20), np.bool_)
            line[row : row + height, 2 : 2 + width] = True
            assert np.array_equal(_dashed(line), line)
    long = np.zeros((20, 60), np.bool_)
    long[4, 2:58] = True
    assert 0.4 * long.sum() <= _dashed(long).sum() <= 0.6 * long.sum()


@pytest.mark.parametrize(
    ("lesions", "rejected", "expected"),
    [
        (range(10, 28), range(60), {*range(10, 28)}),
        (range(10, 13), range(30, 34), {10, 11, 12, 30, 31, 32, 33}),
        (range(0), range(5), {*range(5)}),
        (range(0, 60, 2), range(60), set()),
    ],
)
def test_slices_of_rejected_lesions_take_the_room_that_lesions_leave(
    lesions: range, rejected: range, expected: set[int]
) -> None:
    masks = np.zeros((2, 4, 4, 60), np.bool_)
    masks[0, 1, 1, list(lesions)] = True
    masks[1, 2, 2, list(rejected)] = True
    selected = _select_slices(masks[0], masks[1])
    assert selected == sorted(set(selected))
    assert len(selected) <= 20
    assert expected <= set(selected)
    assert set(selected) <= {*lesions, *rejected}
    assert len({*lesions} & set(selected)) >= min(len(lesions), 19)


def test_the_caption_says_what_became_of_all_lesions() -> None:
    volume, ball = blob_volume()
    mask, none = Mask(ball.astype(np.uint8), volume.grid), np.zeros_like(ball)
    empty = Mask(none.astype(np.uint8), volume.grid)
    assert _caption(empty, none, [0]) == "no lesion was found"
    assert _caption(empty, none, [0], mask) == "no lesion is left"


def test_white_is_a_percentile_of_what_is_not_black() -> None:
    image = np.random.default_rng(1).normal(0.5, 1.0, (20, 18, 5)).astype(np.float32)
    assert (image < 0).any()
    expected = np.percentile(image[image > 0], 100 * _WHITE)
    assert display_white(image) == pytest.approx(expected, rel=1e-6)


def test_white_of_one_voxel_is_its_intensity_and_of_none_is_one() -> None:
    image = np.zeros((4, 5, 3), np.float32)
    assert display_white(image) == 1
    image[1, 2, 1] = 0.25
    assert display_white(image) == 0.25
