import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import GeometryError
from cnnres_infer.pipeline.resample import regrid
from tests.conftest import ORIENTATIONS, blob_volume, oriented_affine


def test_a_volume_on_the_same_grid_is_returned_unchanged() -> None:
    volume, _ = blob_volume()
    same, covered = regrid(volume, volume.grid)
    assert same is volume
    assert covered.all()


@settings(max_examples=20)
@given(st.sampled_from(ORIENTATIONS), st.tuples(*[st.floats(-0.3, 0.3)] * 3))
def test_positions_in_patient_space_are_preserved(
    orientation: tuple[tuple[int, ...], tuple[int, ...]], tilt: tuple[float, float, float]
) -> None:
    volume, _ = blob_volume(
        (48, 56, 28), oriented_affine((0, 1, 2), (1, 1, 1), (3, 3, 5), shape=(48, 56, 28))
    )
    shape = (40, 44, 36)
    grid = Grid(shape, oriented_affine(*orientation, (4.0, 4.4, 4.2), tilt, shape))
    moved, covered = regrid(volume, grid)
    bright = np.argwhere(moved.data > 145)
    assert np.linalg.norm(grid.to_mm(bright.mean(axis=0)) - (20.0, 10.0, 5.0)) < 2.0
    assert covered.any()
    assert not moved.data[~covered].any()


def test_a_linear_ramp_is_exact() -> None:
    i, j, k = np.indices((20, 20, 20)).astype(np.float32)
    volume = Volume(i + 2 * j + 3 * k, Grid((20, 20, 20), np.eye(4)))
    affine = np.eye(4)
    affine[:3, 3] = 0.25, 0.5, 0.75
    moved, covered = regrid(volume, Grid((10, 10, 10), affine))
    expected = (i + 2 * j + 3 * k)[:10, :10, :10] + 0.25 + 1.0 + 2.25
    np.testing.assert_allclose(moved.data, expected, rtol=1e-5)
    assert covered.all()


@pytest.mark.parametrize("step", [1.0, 2.0, 5.0])
def test_a_constant_stays_constant_to_the_edge(step: float) -> None:
    volume = Volume(np.full((20, 20, 20), 100.0, np.float32), Grid((20, 20, 20), np.eye(4)))
    count = int(20 / step)
    moved, covered = regrid(volume, Grid((count,) * 3, np.diag([step, step, step, 1.0])))
    assert covered.all()
    np.testing.assert_allclose(moved.data, 100.0, rtol=1e-5)


def test_grids_that_do_not_overlap_are_refused() -> None:
    volume, _ = blob_volume()
    far = np.eye(4)
    far[:3, 3] = 1000
    with pytest.raises(GeometryError, match="overlap"):
        regrid(volume, Grid((5, 5, 5), far))


def test_fine_texture_does_not_alias() -> None:
    stripes = np.zeros((64, 64, 4), np.float32)
    stripes[::2] = 2.0
    volume = Volume(stripes, Grid((64, 64, 4), np.eye(4)))
    moved, _ = regrid(volume, Grid((16, 16, 4), np.diag([4.0, 4.0, 1.0, 1.0])))
    np.testing.assert_allclose(moved.data[2:-2, 2:-2], 1.0, atol=0.15)
