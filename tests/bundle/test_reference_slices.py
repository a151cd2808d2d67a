import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnnres_infer import Bundle
from cnnres_infer.bundle.reference_slices import read_slices
from cnnres_infer.core.spec import ModelSpec
from tests.conftest import bright_reference

Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def spec(bright_bundle: Any) -> ModelSpec:
    return Bundle.open(bright_bundle).spec


def arrays() -> Arrays:
    with np.load(io.BytesIO(bright_reference())) as archive:
        return dict(archive)


def packed(made: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **made)
    return buffer.getvalue()


def test_slices_with_lesions_are_read(spec: ModelSpec) -> None:
    images, probabilities = read_slices(bright_reference(), spec)
    assert np.array_equal(images, arrays()["images"])
    assert np.array_equal(probabilities, arrays()["probabilities"])


def faint(made: Arrays) -> None:
    made["probabilities"] *= np.float32(0.4)


def tiny(made: Arrays) -> None:
    made["probabilities"][:] = 0
    made["probabilities"][:, 0, :5, :10] = 1


def everywhere(made: Arrays) -> None:
    made["probabilities"][:] = 1


def none(made: Arrays) -> None:
    made.update({name: array[:0] for name, array in made.items()})


def lost(made: Arrays) -> None:
    made["probabilities"][0, 0, 0, 0] = np.nan


def beyond(made: Arrays) -> None:
    made["probabilities"][0, 0, 0, 0] = 1.5


def fewer(made: Arrays) -> None:
    made["images"] = made["images"][1:]


def floats(made: Arrays) -> None:
    made["images"] = made["images"].astype(np.float32)


def small(made: Arrays) -> None:
    made.update({name: array[..., :80] for name, array in made.items()})


def flat(made: Arrays) -> None:
    made.update({name: array[:, 0] for name, array in made.items()})


def scalar(made: Arrays) -> None:
    made["images"] = np.uint8(3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (faint, "prove nothing"),
        (tiny, "prove nothing"),
        (everywhere, "prove nothing"),
        (none, "prove nothing"),
        (lost, "not probabilities"),
        (beyond, "not probabilities"),
        (fewer, "probabilities are"),
        (floats, "images are float32"),
        (small, "images are"),
        (flat, "images are"),
        (scalar, "images are"),
    ],
)
def test_slices_that_prove_nothing_are_refused(
    spec: ModelSpec, change: Callable[[Arrays], None], reason: str
) -> None:
    made = arrays()
    change(made)
    with pytest.raises(ValueError, match=reason):
        read_slices(packed(made), spec)
