from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from calibration.data import load_split
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.case import Modality
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.errors import UsageError
from cnnres_infer.phantom.head import Phantom, make_phantom
from cnnres_infer.readers import load_volume
from cnnres_infer.readers.nifti.write import save_volume
from tests.conftest import phantom_volume


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return Bundle.open().spec


@cache
def phantom_of(seed: int, slices: int) -> Phantom:
    return make_phantom(seed, shape=(48, 48, slices), spacing=(4.0, 4.0, 96 / slices))


def save(path: Path, seed: int, of: str = "volume", slices: int = 6) -> Path:
    phantom = phantom_of(seed, slices)
    data = phantom.data if of == "volume" else phantom.truth
    path.parent.mkdir(parents=True, exist_ok=True)
    save_volume(path, data, phantom_volume(phantom).grid)
    return path


def test_a_folder_for_each_patient_may_use_the_same_names(tmp_path: Path, spec: ModelSpec) -> None:
    for seed, patient in enumerate(("a", "b", "c")):
        save(tmp_path / patient / "s_dwi.nii.gz", seed)
    save(tmp_path / "b" / "s_msk.nii", 1, of="truth")
    split = load_split(tmp_path, spec, seed=0)
    scans = {scan.name: scan for scan in (*split.calibration, *split.gate)}
    assert set(scans) == {f"{patient}/s_dwi.nii.gz" for patient in "abc"}
    assert {scan.patient for scan in scans.values()} == {"a/s", "b/s", "c/s"}
    labelled = [name for name, scan in scans.items() if scan.lesions is not None]
    assert labelled == ["b/s_dwi.nii.gz"]


@pytest.mark.parametrize("seed", range(4))
def test_no_patient_is_on_both_sides_of_the_split(
    tmp_path: Path, spec: ModelSpec, seed: int
) -> None:
    for patient in range(3):
        save(tmp_path / f"p{patient}_dwi.nii.gz", patient)
        save(tmp_path / f"p{patient}_flair.nii.gz", patient)
    split = load_split(tmp_path, spec, seed)
    sides = [{scan.patient for scan in scans} for scans in (split.calibration, split.gate)]
    assert not sides[0] & sides[1]
    assert [len(split.calibration), len(split.gate)] == [2, 4]


@pytest.mark.parametrize("seed", range(4))
def test_a_subject_of_bids_is_one_patient(tmp_path: Path, spec: ModelSpec, seed: int) -> None:
    for subject in range(3):
        name = f"sub-0{subject}"
        save(tmp_path / name / "dwi" / f"{name}_dwi.nii.gz", subject)
        save(tmp_path / name / "anat" / f"{name}_flair.nii.gz", subject)
        save(tmp_path / name / "ses-2" / "dwi" / f"{name}_ses-2_dwi.nii.gz", subject)
        save(tmp_path / "derivatives" / name / "denoised.nii.gz", subject)
    split = load_split(tmp_path, spec, seed)
    sides = [{scan.patient for scan in scans} for scans in (split.calibration, split.gate)]
    assert sides[0] | sides[1] == {"sub-00", "sub-01", "sub-02"}
    assert not sides[0] & sides[1]
    assert [len(split.calibration), len(split.gate)] == [4, 8]


def test_one_subject_of_bids_is_too_few(tmp_path: Path, spec: ModelSpec) -> None:
    save(tmp_path / "sub-01" / "dwi" / "sub-01_dwi.nii.gz", 1)
    save(tmp_path / "sub-01" / "anat" / "sub-01_flair.nii.gz", 1)
    with pytest.raises(UsageError, match=r"1 patient\(s\) found"):
        load_split(tmp_path, spec, seed=0)


def test_an_expert_may_find_no_lesion(tmp_path: Path, spec: ModelSpec) -> None:
    for patient in ("a", "b"):
        save(tmp_path / f"{patient}_dwi.nii.gz", 1)
        grid = load_volume(tmp_path / f"{patient}_dwi.nii.gz").grid
        save_volume(tmp_path / f"{patient}_msk.nii.gz", np.zeros(grid.shape, np.uint8), grid)
    split = load_split(tmp_path, spec, seed=0)
    for scan in (*split.calibration, *split.gate):
        assert scan.lesions is not None
        assert not scan.lesions.any()
        assert scan.whole is not None
        assert scan.whole.truth is not None


def test_a_modality_that_the_model_does_not_take_is_left_out(
    tmp_path: Path, spec: ModelSpec
) -> None:
    for patient in ("a", "b"):
        save(tmp_path / f"{patient}.nii.gz", 1)
        save(tmp_path / f"{patient}_flair.nii.gz", 1)
    dwi_only = replace(spec, modalities=(Modality.DWI,))
    split = load_split(tmp_path, dwi_only, seed=0)
    scans = (*split.calibration, *split.gate)
    assert {scan.name for scan in scans} == {"a.nii.gz", "b.nii.gz"}


def test_two_channels_take_dwi_and_flair_of_one_folder(tmp_path: Path, spec: ModelSpec) -> None:
    for seed, patient in enumerate(("a", "b")):
        save(tmp_path / patient / "s_dwi.nii.gz", seed)
        save(tmp_path / patient / "s_flair.nii.gz", 2 + seed)
    slices = replace(spec.slices, shading="removed")
    both = replace(spec, channels=2, slices=slices)
    split = load_split(tmp_path, both, seed=0)
    (one,), (other,) = split.calibration, split.gate
    assert one.images.shape[1] == other.images.shape[1] == 2
    assert not np.array_equal(one.images, other.images)
    (tmp_path / "b" / "s_flair.nii.gz").unlink()
    with pytest.raises(UsageError, match="s_flair"):
        load_split(tmp_path, both, seed=0)


def test_an_expert_mask_must_be_on_the_grid_of_its_volume(tmp_path: Path, spec: ModelSpec) -> None:
    for patient, slices in (("a", 6), ("b", 8)):
        save(tmp_path / f"{patient}_dwi.nii.gz", 1)
        save(tmp_path / f"{patient}_flair.nii.gz", 1, slices=slices)
        save(tmp_path / f"{patient}_msk.nii.gz", 1, of="truth")
    split = load_split(tmp_path, spec, seed=0)
    unlabelled = [c.name for c in (*split.calibration, *split.gate) if c.lesions is None]
    assert unlabelled == ["b_flair.nii.gz"]
    mask = tmp_path / "c_msk.nii.gz"
    volume = save(tmp_path / "c_dwi.nii.gz", 1)
    save(mask, 1, of="truth", slices=8)
    with pytest.raises(UsageError) as caught:
        load_split(tmp_path, spec, seed=0)
    assert str(mask) in str(caught.value)
    assert str(volume) in str(caught.value)
