"""What becomes of the arrays that callers give, and what they get back."""

from collections.abc import Callable

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from cnnres_infer.core.grid import Grid
from cnnres_infer.core.mask import Mask
from cnnres_infer.core.volume import Probabilities, Volume
from cnnres_infer.readers.case import read_case
from cnnres_infer.readers.nifti.read import volume_from_image

SHAPE = (4, 5, 3)
GRID = Grid(SHAPE, np.diag([-2.0, 2.0, 5.0, 1.0]))
Wrap = Callable[[NDArray[np.float32]], Volume | Probabilities | Mask]


def an_array(kind: type = np.float32) -> NDArray[np.float32]:
    return np.arange(60).reshape(SHAPE).astype(kind)


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (lambda data: Volume(data, GRID), np.float32),
        (lambda data: Probabilities(data, GRID), np.float32),
        (lambda data: Mask(data, GRID), np.uint8),
    ],
    ids=["volume", "probabilities", "mask"],
)
def test_a_constructor_keeps_a_view_and_freezes_only_that(wrap: Wrap, kind: type) -> None:
    data = an_array(kind)
    kept = wrap(data).data
    assert np.shares_memory(kept, data)
    assert not kept.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        kept[0, 0, 0] = 7
    data[0, 0, 0] = 9
    assert kept[0, 0, 0] == 9


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, np.asfortranarray])
@pytest.mark.parametrize(
    "copy",
    [
        lambda data: Volume.from_array(data, GRID),
        lambda data: Volume.from_array(data, GRID.affine),
        lambda data: read_case(data, affine=GRID.affine).volume,
        lambda data: read_case((data, GRID.affine), flair=(data, GRID.affine)).flair,
        lambda data: read_case((data, GRID.affine), brain_mask=data).brain_mask,
        lambda data: volume_from_image(nibabel.Nifti1Image(data, GRID.affine)),
        lambda data: read_case(nibabel.Nifti1Image(data, GRID.affine)).volume,
    ],
    ids=["grid", "affine", "case", "flair", "brain mask", "image", "case of an image"],
)
def test_arrays_and_images_are_copied(
    copy: Callable[[NDArray[np.float32]], Volume],
    kind: type,
    arrange: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> None:
    data = arrange(an_array(kind))
    volume = copy(data)
    assert not np.shares_memory(volume.data, data)
    assert data.flags.writeable
    data[:] = 0
    assert np.array_equal(volume.data, an_array())


def test_what_is_not_finite_stays_so_in_the_callers_array() -> None:
    data = an_array()
    data[1, 2, 0] = np.nan
    volume = Volume.from_array(data, GRID)
    assert volume.data[1, 2, 0] == 0
    assert np.isnan(data[1, 2, 0])


def test_a_read_only_array_will_do() -> None:
    data = an_array()
    data.setflags(write=False)
    assert np.array_equal(Volume.from_array(data, GRID).data, an_array())
    assert np.array_equal(Volume(data, GRID).data, an_array())


def test_an_affine_is_copied() -> None:
    affine = np.array(GRID.affine)
    for grid in (Grid(SHAPE, affine), Volume.from_array(an_array(), affine).grid):
        assert not np.shares_memory(grid.affine, affine)
        assert not grid.affine.flags.writeable
    affine[0, 0] = 9
    assert grid.affine[0, 0] == -2


def test_a_volume_is_taken_as_it_is() -> None:
    volume = Volume(an_array(), GRID)
    assert read_case(volume).volume is volume
