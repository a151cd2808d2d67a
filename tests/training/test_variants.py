import numpy as np
import pytest

from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from training.variants import (
    Labelled,
    at_b,
    random_gain,
    thickened,
    unsaturated,
    varied,
    with_another_edge,
)


def case(slices: int = 12) -> Labelled:
    row, column = np.indices((60, 50))
    plane = ((row - 30) / 22) ** 2 + ((column - 25) / 18) ** 2 < 1
    brain: BoolArray = np.repeat(plane[:, :, None], slices, axis=2)
    data = np.where(brain, np.float32(100), np.float32(0))
    truth = np.zeros_like(data)
    truth[25:30, 20:25, slices // 4 : slices - slices // 4] = 1
    data[truth > 0] = 200
    return Labelled(Volume(data, Grid(data.shape, np.diag([2.0, 2.0, 2.0, 1.0]))), truth, brain)


@pytest.mark.parametrize("slices", [1, 12])
def test_a_gain_reaches_its_strength_and_is_smooth(slices: int) -> None:
    log = np.log(random_gain(case(slices).volume, 0.6, np.random.default_rng(0)))
    assert log.max() == pytest.approx(0.6, abs=1e-3)
    assert log.min() == pytest.approx(-0.6, abs=1e-3)
    assert np.abs(np.diff(log, axis=0)).max() < 0.15


def test_another_edge_moves_it_by_millimetres() -> None:
    before, rng = case(), np.random.default_rng(1)
    masks = [with_another_edge(before, rng).brain for _ in range(20)]
    sizes = [np.count_nonzero(mask) for mask in masks]
    assert min(sizes) < np.count_nonzero(before.brain) < max(sizes)
    assert all((mask >= before.brain).all() or (mask <= before.brain).all() for mask in masks)


def test_thick_slices_are_averages() -> None:
    before = case()
    after = thickened(before, np.random.default_rng(0))
    assert after.volume.data.max() == pytest.approx(200, rel=1e-5)
    assert len(np.unique(after.volume.data)) > len(np.unique(before.volume.data))
    assert set(np.unique(after.truth)) == {0.0, 1.0}
    thick = Labelled(
        Volume(before.volume.data, Grid((60, 50, 12), np.diag([2.0, 2.0, 5.0, 1.0]))),
        before.truth,
        before.brain,
    )
    assert thickened(thick, np.random.default_rng(0)) is thick


def test_another_b_follows_the_exponential() -> None:
    volume = case().volume
    b0 = np.where(volume.data > 0, np.float32(400), np.float32(0))
    half, same = at_b(volume, b0, 0.5), at_b(volume, b0, 1.0)
    np.testing.assert_allclose(same.data, volume.data, rtol=1e-5)
    np.testing.assert_allclose(half.data, np.sqrt(volume.data * b0), rtol=1e-5)


def test_what_was_cut_off_gets_height() -> None:
    volume = case(1).volume
    heights = [unsaturated(volume, np.random.default_rng(seed)).data for seed in range(8)]
    assert max(float(h.max()) for h in heights) > 220
    assert all(
        np.array_equal(h[volume.data < 200], volume.data[volume.data < 200]) for h in heights
    )


def test_a_seed_gives_the_same_version() -> None:
    first, second = (varied(case(), np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first.volume.data, second.volume.data)
    assert np.array_equal(first.brain, second.brain)
