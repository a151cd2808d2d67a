import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.core.grid import Grid
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.core.volume import Probabilities
from cnnres_infer.pipeline.mask import binarize

GRID = Grid((20, 20, 10), np.array([[-2.0, 0, 0, 9], [0, 2, 0, -8], [0, 0, 5, 7], [0, 0, 0, 1]]))


def probabilities() -> Probabilities:
    data = np.zeros(GRID.shape, np.float32)
    data[2:6, 2:6, 2:4] = 0.9
    data[10, 10, 5] = data[11, 11, 6] = 0.5
    data[15, 15, 8] = 0.499
    return Probabilities(data, GRID)


def test_lesions_are_measured_and_sorted_by_size() -> None:
    mask, lesions = binarize(probabilities(), MaskSpec(0.5, 0.0))
    assert [lesion.voxels for lesion in lesions] == [32, 2]
    assert lesions[0].volume_ml == pytest.approx(32 * 0.02)
    assert lesions[0].centre_voxel == pytest.approx((3.5, 3.5, 2.5))
    assert lesions[0].centre_mm == pytest.approx((2.0, -1.0, 19.5))
    assert mask.volume_ml == pytest.approx(34 * 0.02)
    assert mask.data.dtype == np.uint8
    assert mask.data.sum() == 34
    assert not mask.data.flags.writeable


def test_small_lesions_are_removed() -> None:
    mask, lesions = binarize(probabilities(), MaskSpec(0.5, 0.05))
    assert [lesion.voxels for lesion in lesions] == [32]
    assert mask.data.sum() == 32


def test_no_lesion() -> None:
    mask, lesions = binarize(probabilities(), MaskSpec(0.95, 0.0))
    assert lesions == ()
    assert not mask.data.any()
    assert mask.data.shape == GRID.shape


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.permutations([0, 1, 2]))
def test_single_voxels_in_a_line_are_lesions(line: list[bool], axes: list[int]) -> None:
    data = np.zeros(GRID.shape, np.float32)
    data.transpose(axes)[2 : 2 + len(line), 4, 5] = line
    mask, lesions = binarize(Probabilities(data, GRID), MaskSpec(0.5, 0.0))
    assert np.array_equal(mask.data, data > 0)
    runs = "".join("x" if each else " " for each in line).split()
    assert sorted(lesion.voxels for lesion in lesions) == sorted(map(len, runs))


def test_all_lesion() -> None:
    everything = Probabilities(np.ones(GRID.shape, np.float32), GRID)
    mask, lesions = binarize(everything, MaskSpec(0.5, 0.0))
    assert mask.data.all()
    assert len(lesions) == 1
