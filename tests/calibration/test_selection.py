import numpy as np

from calibration.selection import choose_slices, slice_hashes


def pool(count: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    images = generator.random((count, 1, 8, 8)).astype(np.float32)
    images *= generator.uniform(0.2, 1.0, (count, 1, 1, 1)).astype(np.float32)
    areas = np.where(np.arange(count) < 10, generator.integers(1, 500, count), 0)
    return images, np.linspace(0, 1, count, dtype=np.float32), areas


def test_lesions_are_chosen_though_most_slices_have_none() -> None:
    images, positions, areas = pool()
    chosen = choose_slices(images, positions, areas, 16, seed=0)
    assert len(set(chosen)) == 16
    assert chosen == sorted(chosen)
    assert 6 <= np.count_nonzero(areas[chosen]) <= 10
    empty = [i for i in chosen if areas[i] == 0]
    assert positions[empty].min() < 0.5 < positions[empty].max()
    brightness = images[empty].mean(axis=(1, 2, 3))
    assert brightness.min() < np.median(images.mean(axis=(1, 2, 3))) < brightness.max()


def test_the_selection_depends_on_the_seed_alone() -> None:
    data = pool()
    assert choose_slices(*data, 16, seed=1) == choose_slices(*data, 16, seed=1)
    assert choose_slices(*data, 16, seed=1) != choose_slices(*data, 16, seed=2)


def test_all_slices_are_selected_if_there_are_too_few() -> None:
    data = pool(12)
    assert choose_slices(*data, 64, seed=0) == list(range(12))


def test_hashes_tell_slices_apart_but_not_float_noise() -> None:
    images, *_ = pool(2)
    first, second = slice_hashes(images)
    assert first != second
    steps = np.round(images * 65535) / 65535
    assert slice_hashes(steps.astype(np.float32) + np.float32(1e-7)) == [first, second]
