from collections.abc import Callable
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer import Predictor
from cnnres_infer.core.grid import Grid, parse_affine
from cnnres_infer.errors import GeometryError
from cnnres_infer.readers.nifti.read import volume_from_image
from tests.faults.files import DATA, changed

AFFINE = np.array([[-2.0, 0, 0, 111], [0, 2, 0, -119], [0, 0, 2, -71], [0, 0, 0, 1]])


def with_last_row(*row: float) -> np.ndarray:
    return np.vstack([AFFINE[:3], row])


NONE: dict[str, Any] = {
    "transposed": AFFINE.T,
    "last row 1 2 3 4": with_last_row(1, 2, 3, 4),
    "last row of zeros": with_last_row(0, 0, 0, 0),
    "last row scaled": with_last_row(0, 0, 0, 2),
    "complex": AFFINE + 0j,
    "text": AFFINE.astype(str),
    "bytes": AFFINE.astype("S"),
    "objects": AFFINE.astype(object),
    "flags": AFFINE.astype(bool),
    "ragged": [[1, 0, 0, 0], [0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "three rows": AFFINE[:3],
    "three columns": AFFINE[:, :3],
    "stacked": AFFINE[None],
    "sixteen numbers": AFFINE.ravel(),
    "a number": 2.0,
    "a word": "scanner",
    "nan": AFFINE * np.nan,
    "infinite": np.where(AFFINE == 111, np.inf, AFFINE),
    "huge": np.where(AFFINE == 111, 1e300, AFFINE),
    "huge integers": [[10**400, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
}


@pytest.mark.parametrize("affine", NONE.values(), ids=NONE)
def test_what_is_no_affine_is_refused(affine: Any) -> None:
    with pytest.raises(GeometryError, match="affine") as caught:
        Grid((3, 4, 5), affine)
    assert caught.value.code == "E-GRID-AFFINE"


@pytest.mark.parametrize("affine", NONE.values(), ids=NONE)
@pytest.mark.parametrize(
    "give",
    [
        lambda folder, affine: {"source": DATA, "affine": affine},
        lambda folder, affine: {"source": (DATA, affine)},
        lambda folder, affine: {"source": (DATA, AFFINE), "flair": (DATA, affine)},
        lambda folder, affine: {"source": (DATA, AFFINE), "brain_mask": (DATA, affine)},
        lambda folder, affine: {
            "source": changed(sform_code=0, qform_code=0)(folder),
            "affine": affine,
        },
    ],
    ids=["array", "pair", "flair", "brain mask", "file"],
)
def test_a_prediction_refuses_it(
    give: Callable[..., dict[str, Any]], affine: Any, bright_bundle: Any, tmp_path: Any
) -> None:
    with (
        Predictor.load(bright_bundle, backend="ort", threads=1) as predictor,
        pytest.raises(GeometryError) as caught,
    ):
        predictor.predict(**give(tmp_path, affine))
    assert caught.value.code == "E-GRID-AFFINE"


@pytest.mark.parametrize("name", ["transposed", "last row 1 2 3 4", "last row scaled"])
def test_an_image_that_lies_elsewhere_than_its_header_says_is_refused(name: str) -> None:
    image = nibabel.Nifti1Image(DATA, NONE[name])
    image.header.set_sform(AFFINE, 1)
    with pytest.raises(GeometryError) as caught:
        volume_from_image(image)
    assert caught.value.code == "E-GRID-AFFINE"


def test_an_image_may_leave_its_affine_to_its_header() -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape(DATA.shape)
    header.set_sform(AFFINE, 1)
    volume = volume_from_image(nibabel.Nifti1Image(DATA, None, header))
    assert np.array_equal(volume.grid.affine, AFFINE)


@given(st.lists(st.floats(-1e-7, 1e-7), min_size=4, max_size=4))
def test_rounding_in_the_last_row_is_removed(rounding: list[float]) -> None:
    affine = with_last_row(*np.array([0, 0, 0, 1]) + rounding)
    assert np.array_equal(parse_affine(affine), AFFINE)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int16, list])
def test_real_numbers_of_any_kind_will_do(kind: Any) -> None:
    given_as = AFFINE.tolist() if kind is list else AFFINE.astype(kind)
    assert np.array_equal(Grid((3, 4, 5), given_as).affine, AFFINE)
