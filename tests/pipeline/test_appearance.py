"""Images that are neither DWI nor FLAIR are told from how the brain looks."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from cnnres_infer.core.volume import Volume
from cnnres_infer.phantom.anatomy import CONTRASTS, Contrast
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.phantom.lesion import PhantomLesion
from cnnres_infer.pipeline.appearance import Appearance, _local_sum, _window, slice_shape
from cnnres_infer.pipeline.brain import find_brain
from cnnres_infer.readers import load_volume
from tests.conftest import ORIENTATIONS, SHARED_DATA, blob_volume, phantom_volume
from tests.pipeline.test_orientation import reoriented

OTHERS = {
    "b0": (Contrast(grey=1.2, iron=0.7, fluid=2.6, scalp=0.3), "fluid is brighter"),
    "t1": (Contrast(grey=0.7, iron=0.85, fluid=0.25, scalp=0.9), "white matter is brighter"),
}
SERIES = sorted(SHARED_DATA.glob("lesion_free/*.nii.gz"))
HIGHEST_B = 1500


def test_sums_along_long_axes_take_memory_in_proportion() -> None:
    windows = [_window(6000, 4.7), _window(5, 2.0)]
    assert windows[0].entries.size < 6000 * 40
    planes = np.random.default_rng(0).integers(0, 9, (2, 6000, 5)).astype(np.float32)
    sums = _local_sum(planes, windows)
    for row, column in ((0, 0), (3000, 2), (1023, 4), (5999, 4)):
        near = planes[:, max(0, row - 4) : row + 5, max(0, column - 2) : column + 3]
        assert sums[:, row, column].tolist() == near.sum(axis=(1, 2)).tolist()


def appearance(volume: Volume) -> Appearance:
    looks = Appearance.of(volume, find_brain(volume).mask)
    assert looks is not None
    return looks


@pytest.mark.parametrize("modality", ["dwi", "flair"])
@pytest.mark.parametrize("skull", [False, True])
def test_a_synthetic_head_raises_no_objection(modality: str, skull: bool) -> None:
    assert (
        appearance(phantom_volume(make_phantom(3, modality=modality, skull=skull))).objection
        is None
    )


@pytest.mark.parametrize("kind", OTHERS)
def test_another_contrast_is_named(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    contrast, reason = OTHERS[kind]
    monkeypatch.setitem(CONTRASTS, kind, contrast)
    objection = appearance(phantom_volume(make_phantom(3, modality=kind))).objection
    assert objection is not None
    assert reason in objection


def test_the_infarct_of_a_hemisphere_raises_no_objection() -> None:
    infarct = PhantomLesion((36.0, -8.0, 12.0), 45.0, 2.4, 0.4, 1)
    phantom = make_phantom(3, lesions=[infarct])
    assert np.count_nonzero(phantom.truth) * 8 / 1000 > 150
    assert appearance(phantom_volume(phantom)).objection is None


def test_a_ball_has_no_contrast() -> None:
    volume, _ = blob_volume(radius_mm=0.1)
    noise = np.random.default_rng(0).normal(1, 0.03, volume.data.shape)
    ball = dataclasses.replace(volume, data=((volume.data > 0) * 100 * noise).astype(np.float32))
    objection = appearance(ball).objection
    assert objection is not None
    assert "hardly any contrast" in objection


def test_neither_scale_nor_orientation_matters() -> None:
    volume = phantom_volume(make_phantom(3, shape=(60, 60, 24), spacing=(3.5, 3.5, 6.0)))
    expected = dataclasses.astuple(appearance(volume))
    for order, signs in ORIENTATIONS[::7]:
        turned = reoriented(volume, order, signs)
        scaled = dataclasses.replace(turned, data=turned.data / np.float32(1000))
        # A block of voxels may start at the other end.
        np.testing.assert_allclose(dataclasses.astuple(appearance(scaled)), expected, atol=0.05)


def test_a_speck_has_no_appearance() -> None:
    volume, ball = blob_volume()
    assert Appearance.of(volume, ball) is None


def test_the_shape_of_the_largest_slice_is_in_millimetres() -> None:
    volume, _ = blob_volume()
    width, length, fill = slice_shape(volume, volume.data > 0)
    assert width == pytest.approx(130, abs=2.6)
    assert length == pytest.approx(160, abs=2.6)
    assert fill == pytest.approx(np.pi / 4, abs=0.02)


@pytest.mark.parametrize("path", SERIES or [Path("none")], ids=lambda path: path.name)
@pytest.mark.usefixtures("shared_data")
def test_lesion_free_heads(path: Path) -> None:
    """Objections to each b0, and to each DWI of a high b-value, but to no other DWI."""
    known_b = re.search(r"_b(\d+)_dwi", path.name)
    meant = known_b is not None and int(known_b[1]) <= HIGHEST_B
    objection = appearance(load_volume(path)).objection
    assert (objection is None) == meant
    assert not path.name.endswith("_b0.nii.gz") or "b0" in str(objection)
