"""Plausibility warnings, on phantoms and on real MRI."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnres_infer import Predictor
from cnnres_infer.bundle.bundle import DEFAULT_BUNDLE, Bundle
from cnnres_infer.core.case import Modality
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.phantom.anatomy import CONTRASTS, Contrast
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.pipeline.brain import Brain, find_brain
from cnnres_infer.pipeline.quality import input_notices
from cnnres_infer.readers import load_volume
from tests.conftest import SHARED_DATA, blob_volume, phantom_volume
from tests.faults.situations import adc_map

SPEC = Bundle.open(DEFAULT_BUNDLE).spec.slices
SCANS = sorted(SHARED_DATA.glob("volumes/*/*.nii.gz"))


def codes(volume: Volume, modality: Modality = Modality.DWI) -> set[str]:
    return {notice.code for notice in input_notices(volume, find_brain(volume), modality, SPEC)}


@pytest.mark.parametrize("path", SCANS or [Path("none")], ids=lambda path: path.name)
@pytest.mark.usefixtures("shared_data")
def test_adc_maps_are_recognised_among_real_volumes(path: Path) -> None:
    kind = path.name.removesuffix(".nii.gz").rpartition("_")[2]
    if kind not in ("dwi", "adc", "flair", "b0"):
        pytest.skip("a mask")
    found = codes(load_volume(path), Modality.FLAIR if kind == "flair" else Modality.DWI)
    assert ("W-INPUT-ADC" in found) == (kind == "adc")
    assert ("W-INPUT-CONTRAST" in found) == (kind == "b0")
    assert kind in ("adc", "b0") or not found


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1.0])
def test_an_adc_map_is_recognised_in_each_unit(unit: float) -> None:
    volume = adc_map()
    scaled = replace(volume, data=volume.data * np.float32(unit))
    assert "W-INPUT-ADC" in codes(scaled)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_dwi_phantom_is_not_taken_for_an_adc_map(seed: int) -> None:
    volume = phantom_volume(make_phantom(seed))
    for scale in (0.01, 1.0, 7.0):
        assert codes(replace(volume, data=volume.data * np.float32(scale))) == set()


def test_an_inverted_image_is_named() -> None:
    volume = phantom_volume(make_phantom(3))
    inverted = replace(volume, data=volume.data.max() - volume.data)
    brain = Brain(volume.data > 0, "given")
    notices = input_notices(inverted, brain, Modality.DWI, SPEC)
    assert any("the background is bright" in notice.text for notice in notices)


def test_air_of_ct_is_named() -> None:
    volume = phantom_volume(make_phantom(3))
    inside = volume.data > 0
    data = np.where(inside, volume.data / 8, np.float32(-1000))
    notices = input_notices(replace(volume, data=data), Brain(inside, "given"), Modality.DWI, SPEC)
    assert any("looks like CT" in notice.text for notice in notices)


@pytest.mark.parametrize("slope", [1.0, 0.37])
@pytest.mark.parametrize("bright", [33_000, 40_000, 60_000])
def test_a_lesion_that_wrapped_around_is_noted(bright: int, slope: float) -> None:
    """With sharp edges in dark tissue, it is too near to tissue to be told for sure."""
    volume, lesion = blob_volume()
    tissue = np.rint(volume.data * (700 / np.median(volume.data[volume.data > 0])))
    stored = np.where(lesion, bright, tissue).astype(np.uint16).view(np.int16)
    wrapped = replace(volume, data=stored * np.float32(slope))
    assert "W-INPUT-INTENSITY" in codes(wrapped)


@pytest.mark.parametrize("share", [0.0005, 0.2])
def test_negative_values_are_counted_outside_the_brain_too(share: float) -> None:
    volume = phantom_volume(make_phantom(3))
    brightest = np.quantile(volume.data[volume.data > 0], 1 - share)
    lost = replace(volume, data=np.where(volume.data > brightest, -volume.data, volume.data))
    assert "W-INPUT-INTENSITY" in codes(lost)
    brain = Brain(volume.data > 0, "given")
    (text,) = (
        notice.text
        for notice in input_notices(lost, brain, Modality.DWI, SPEC)
        if "below zero" in notice.text
    )
    lowest, size = lost.data.min(), np.count_nonzero(brain.mask)
    assert f" voxels are well below zero, the lowest is {lowest:.4g}; " in text
    assert f"the brain has {size} voxels and a median of " in text


def test_ringing_around_the_brain_is_not_warned_of() -> None:
    volume = phantom_volume(make_phantom(3))
    ringing = volume.data - np.roll(volume.data, 1, axis=0) * np.float32(0.07)
    assert not codes(replace(volume, data=ringing))


def test_a_flair_beside_a_dwi_is_checked_too(
    bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTRASTS, "t2", Contrast(grey=1.2, iron=0.7, fluid=2.6, scalp=0.3))
    dwi, flair, other = (
        phantom_volume(make_phantom(3, modality=modality), modality)
        for modality in ("dwi", "flair", "t2")
    )
    with Predictor.load(bright_bundle, threads=1) as predictor:
        assert not any(
            n.code == "W-INPUT-CONTRAST" for n in predictor.predict(dwi, flair=flair).warnings
        )
        (notice,) = (
            n for n in predictor.predict(dwi, flair=other).warnings if n.code == "W-INPUT-CONTRAST"
        )
    assert notice.text.startswith("t2: looks like b0, T2")


def test_slices_of_patients_are_not_taken_for_adc_maps(shared_data: Path) -> None:
    """Scaled like ADC maps, they can be recognised only by the shape of their histograms."""
    folder = shared_data / "isles22_slices"
    warned = tested = 0
    for row in csv.DictReader((folder / "index.csv").open()):
        if row["usable_both"] != "1":
            continue
        case = np.load(folder / f"{row['case']}.npz")
        for modality in ("dwi", Modality.FLAIR):
            plane = case[modality].astype(np.float32)
            scaled = plane * np.float32(800.0 / np.median(plane[plane > 0]))
            grid = Grid((*scaled.shape, 1), np.diag([0.7, 0.7, 5.0, 1.0]))
            volume = Volume(scaled[:, :, None], grid)
            brain = Brain(volume.data > 0.1 * np.percentile(scaled, 99), "stripped")
            tested += 1
            warned += any(
                notice.code == "W-INPUT-ADC"
                for notice in input_notices(volume, brain, Modality(modality), SPEC)
            )
    assert tested > 150
    assert warned <= 2, f"{warned} of {tested}"


def test_warnings_are_written_on_the_overlay(bright_bundle: Path, tmp_path: Path) -> None:
    for name, volume in (("plain", blob_volume()[0]), ("empty", blob_volume(radius_mm=0.1)[0])):
        with Predictor.load(bright_bundle, threads=1) as predictor:
            result = predictor.predict(replace(volume, name=name))
        picture = result.save(tmp_path)["overlay"]
        assert picture
        red, _, blue = np.asarray(Image.open(picture))[-26:].astype(int).transpose(2, 0, 1)
        yellow = (red - blue > 60).any(axis=1)
        assert yellow.any() == bool(result.warnings)
