"""Masks, label maps and wrapped integers are rejected, and images are not."""

from dataclasses import replace

import numpy as np
import pytest

from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import VolumeError
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.pipeline.values import check_mask_values, check_values
from tests.conftest import blob_volume, phantom_volume

PHANTOM = make_phantom(3, shape=(64, 64, 30), spacing=(3.2, 3.2, 5.0))
IMAGE = phantom_volume(PHANTOM)


def rejection(data: np.ndarray) -> str:
    with pytest.raises(VolumeError) as caught:
        check_values(Volume.from_array(data, IMAGE.grid, "image"))
    return f"{caught.value.code} {caught.value}"


@pytest.mark.parametrize("top", [1, 255, 0.5])
def test_a_mask_is_named(top: float) -> None:
    text = rejection(PHANTOM.brain * top)
    assert "E-VOXELS-LABELS" in text
    assert "mask: all voxels have one of 2 values" in text


def test_a_small_mask_is_named() -> None:
    data = np.zeros(IMAGE.data.shape, np.uint8)
    data[30:33, 30:33, 12] = 1
    assert "one of 2 values" in rejection(data)


def test_a_label_map_is_named_with_its_number_of_values() -> None:
    data = np.digitize(IMAGE.data, np.arange(20, 400, 40))
    assert f"only {len(np.unique(data))} distinct values" in rejection(data)


def test_a_parcellation_is_named() -> None:
    x, y, z = np.indices(IMAGE.data.shape) // np.reshape((6, 6, 4), (3, 1, 1, 1))
    data = PHANTOM.brain * (1000 + x + 20 * y + 400 * z)
    assert "of neighbouring voxels have the same" in rejection(data)


def test_a_label_map_whose_rows_have_the_length_of_the_step_is_named() -> None:
    """In 256 x 256 x 256 voxels, every 256th one would lie on the volume's edge."""
    x, y, z = (np.arange(256) // 64 for _ in range(3))
    labels = (1 + x[:, None, None] + 4 * y[:, None] + 16 * z).astype(np.float32)
    labels[:16] = 0
    with pytest.raises(VolumeError, match="same of 65 values"):
        check_values(Volume(labels, Grid((256, 256, 256), np.eye(4)), "labels"))


@pytest.mark.parametrize("levels", [60, 250])
def test_a_coarsely_quantised_image_is_accepted(levels: int) -> None:
    data = np.rint(IMAGE.data * (levels / IMAGE.data.max()))
    check_values(Volume.from_array(data, IMAGE.grid))


def test_an_image_of_doubled_voxels_is_accepted() -> None:
    doubled = IMAGE.data.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    check_values(Volume.from_array(doubled, np.diag([1.6, 1.6, 2.5, 1.0])))


@pytest.mark.parametrize(
    ("unsigned", "signed", "bits"), [(np.uint8, np.int8, 8), (np.uint16, np.int16, 16)]
)
def test_wrapped_integers_are_named(unsigned: type, signed: type, bits: int) -> None:
    top = np.iinfo(unsigned).max
    data = (IMAGE.data * (0.9 * top / IMAGE.data.max())).astype(unsigned)
    check_values(Volume.from_array(data, IMAGE.grid))
    text = rejection(data.view(signed))
    assert "E-VOXELS-WRAPPED" in text
    assert f"unsigned {bits}-bit" in text


@pytest.mark.parametrize("slope", [0.1, 0.37, 2.4415, 1e-4])
def test_wrapped_integers_are_named_whatever_their_scale(slope: float) -> None:
    data = (IMAGE.data * (60_000 / IMAGE.data.max())).astype(np.uint16)
    check_values(Volume.from_array(data * slope, IMAGE.grid))
    assert "unsigned 16-bit" in rejection(data.view(np.int16) * slope)


@pytest.mark.parametrize("shift", [0.1, 0.5, 0.9])
def test_a_shifted_image_is_not_wrapped(shift: float) -> None:
    data = IMAGE.data / IMAGE.data.max() - np.float32(shift)
    check_values(replace(IMAGE, data=data))
    levels = np.rint(data * 250).astype(np.float32) * np.float32(0.7)
    check_values(replace(IMAGE, data=levels))


def test_wrapped_integers_are_named_in_the_mean_of_directions() -> None:
    data = (IMAGE.data * (60_000 / IMAGE.data.max())).astype(np.uint16).view(np.int16)
    mean = np.where(data < 0, data, data + np.float32(0.3))
    assert "E-VOXELS-WRAPPED" in rejection(mean)


def test_negative_values_alone_are_not_wrapped() -> None:
    check_values(replace(IMAGE, data=np.rint(IMAGE.data) - np.float32(100)))
    # Padding of the lowest integer.
    padded = np.where(IMAGE.data > 0, np.rint(IMAGE.data), np.float32(-32768))
    check_values(replace(IMAGE, data=padded))
    check_values(blob_volume()[0])


def test_an_image_is_no_brain_mask() -> None:
    with pytest.raises(VolumeError, match="looks like an image") as caught:
        check_mask_values(IMAGE)
    assert caught.value.code == "E-VOXELS-IMAGE"


@pytest.mark.parametrize("kind", ["probabilities", "0 and 255", "regions"])
def test_masks_of_all_kinds_are_brain_masks(kind: str) -> None:
    probabilities = np.random.default_rng(2).random(IMAGE.data.shape) * PHANTOM.brain
    x, y, z = np.indices(IMAGE.data.shape) // 8
    data = {
        "probabilities": probabilities,
        "0 and 255": PHANTOM.brain * 255.0,
        "regions": PHANTOM.brain * (1.0 + x + 8 * y + 64 * z),
    }[kind]
    check_mask_values(Volume.from_array(data, IMAGE.grid, "mask", is_mask=True))
