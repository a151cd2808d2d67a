from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from cnnres_infer.core.case import Modality
from cnnres_infer.pipeline.brain import find_brain
from cnnres_infer.pipeline.slices.batches import to_batches
from cnnres_infer.pipeline.slices.geometry import SliceGeometry
from cnnres_infer.readers import load_volume
from training.data import (
    SPEC,
    TRAINING_VOLUME,
    VALIDATION_VOLUMES,
    Collections,
    _stack,
    load_collections,
    load_validation_slices,
    volume_images,
    volume_paths,
)
from training.lesion_free import HELD_OUT

pytestmark = pytest.mark.slow  # reads all collections


@pytest.fixture(scope="module")
def collections(shared_data: Path) -> Collections:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.data._SLICE_VERSIONS", 2)
        patch.setattr("training.data._VOLUME_VERSIONS", 2)
        patch.setattr("training.data._LESION_FREE_VERSIONS", 2)
        patch.setattr("training.data._stack", lambda images: _stack(islice(images, 400)))
        return load_collections(shared_data)


def test_patients_are_split(collections: Collections) -> None:
    held_out = {*collections.validation[0].patients, *VALIDATION_VOLUMES}
    trained = (collections.dwi, collections.flair, collections.volume, collections.healthy)
    for images in trained:
        assert not held_out & set(images.patients)
    assert collections.validation[0].patients == collections.validation[1].patients
    assert len(collections.validation[0]) >= 15
    assert len(set(collections.dwi.patients)) >= 80
    assert len(collections.soop) == 400


def test_images_are_what_the_network_expects(collections: Collections) -> None:
    c = collections
    for images in (c.dwi, c.flair, c.volume, c.soop, c.lesion_free, c.high_b):
        assert images.pixels.shape == images.masks.shape == (len(images), 160, 160)
        assert images.pixels.min() >= 0
        assert images.pixels.max() <= 1.0001
        tissue = np.median(images.pixels[images.pixels > 0.25])
        assert abs(tissue - 0.5) < 0.05


def test_volunteers_are_split(collections: Collections) -> None:
    for images in (collections.lesion_free, collections.high_b):
        assert not set(HELD_OUT) & set(images.patients)
        assert not images.masks.any()
        assert len(images) > 100
    assert {"vol01", "vol04", "vol07"} <= set(collections.lesion_free.patients)


def test_lesions_are_bright_on_dwi(collections: Collections) -> None:
    dwi = collections.dwi
    lesion = dwi.masks > 0.5
    brighter = [
        image[mask].mean() > np.median(image[image > 0.25])
        for image, mask in zip(dwi.pixels, lesion, strict=True)
        if mask.any()
    ]
    assert np.mean(brighter) > 0.9


def test_the_healthy_half_is_mirrored(collections: Collections) -> None:
    pixels = collections.healthy.pixels
    assert np.array_equal(pixels, pixels[:, :, ::-1])
    assert not collections.healthy.masks.any()


def test_training_and_inference_see_the_same_images(shared_data: Path) -> None:
    trained = volume_images(shared_data, TRAINING_VOLUME)
    volume = load_volume(volume_paths(shared_data, TRAINING_VOLUME)[0])
    brain = find_brain(volume).mask
    geometry = SliceGeometry.of(volume.grid, brain, SPEC)
    batches = to_batches((volume,), brain, geometry, SPEC.of(Modality.DWI), 4)
    # Products of matrices round differently with the number of slices.
    seen = np.concatenate([b.images[:, 0] for b in batches])
    np.testing.assert_allclose(trained.pixels, seen, atol=1e-6)


def test_validation_slices_are_the_same_each_time(shared_data: Path) -> None:
    first, second = load_validation_slices(shared_data), load_validation_slices(shared_data)
    assert np.array_equal(first[0].pixels, second[0].pixels)
    assert np.array_equal(first[0].masks, first[1].masks)
