"""DICOM outputs through the command line."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from cnnres_infer import Predictor
from cnnres_infer.core.grid import Grid
from cnnres_infer.errors import UsageError
from cnnres_infer.readers.nifti.write import save_volume
from tests import commands
from tests.conftest import blob_volume
from tests.fakes.dicom import (
    Scan,
    classic_images,
    enhanced_image,
    nothing,
    save,
    siemens,
    written_order,
)
from tests.outputs.dicom.made import in_order, world_of_frames

FORMATS = ("mask", "report", "dicom-seg", "dicom-sr", "dicom-sc")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return commands.run("cnnres_infer", *arguments)


def formats(*names: str) -> list[str]:
    return [part for name in names for part in ("--format", name)]


def b0_of(trace: Scan) -> Scan:
    return trace.but(data=np.maximum(trace.data, 1) * 2, b=0.0, kind="b0")


def study_of(folder: Path, *, empty: bool = False) -> Path:
    volume, ball = blob_volume()
    data = np.where(ball, 100, volume.data) if empty else volume.data
    trace = Scan(data.astype(np.uint16), volume.grid.affine, 1000.0, "trace")
    return save(folder, classic_images([b0_of(trace), trace]))


@pytest.mark.slow
def test_outputs_of_a_study_and_the_same_again(tmp_path: Path, bright_bundle: Path) -> None:
    study = study_of(tmp_path / "study")
    options = ("-o", tmp_path / "out", "--bundle", bright_bundle, "--backend", "ort")
    done = run(study, *options, *formats(*FORMATS))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    out = tmp_path / "out"
    first = {path.name: path.read_bytes() for path in out.glob("*.dcm")}
    assert sorted(first) == [
        "study_lesion_seg.dcm",
        "study_overlay_sc.dcm",
        "study_report_sr.dcm",
    ]
    import nibabel

    mask = nibabel.load(out / "study_lesion_mask.nii.gz")
    indices = np.argwhere(np.asarray(mask.dataobj)).astype(np.float64)
    expected = Grid(mask.shape, mask.affine).to_mm(indices)
    found = world_of_frames(pydicom.dcmread(out / "study_lesion_seg.dcm"))
    assert len(found) > 20
    np.testing.assert_allclose(in_order(found), in_order(expected), rtol=0, atol=1e-3)

    # The self-check is remembered by now, and the study stands beside its results.
    for path in out.glob("*.dcm"):
        path.rename(study / path.name)
    again = run(study, *options, "--overwrite", *formats(*FORMATS))
    assert again.returncode == 0, again.stderr
    assert {path.name: path.read_bytes() for path in out.glob("*.dcm")} == first


@pytest.mark.slow
def test_a_real_study_with_b0_and_adc_gives_the_mask_of_its_nifti(
    shared_data: Path, tmp_path: Path
) -> None:
    import nibabel

    case = shared_data / "volumes" / "sub-raw02"
    dwi, b0, adc = (
        nibabel.load(case / f"sub-raw02_{each}.nii.gz") for each in ("dwi", "b0", "adc")
    )
    # In 10^-6 mm2/s, as scanners store it, and in both formats.
    whole_adc = np.rint(np.clip(adc.get_fdata(), 0, None) * 1e6).astype(np.uint16)
    shape = (int(dwi.shape[0]), int(dwi.shape[1]), int(dwi.shape[2]))
    save_volume(tmp_path / "adc.nii.gz", whole_adc, Grid(shape, adc.affine))
    weighted = Scan(np.asarray(dwi.dataobj).astype(np.uint16), dwi.affine, 1000.0, "trace")
    plain = Scan(np.asarray(b0.dataobj).astype(np.uint16), b0.affine)
    derived = ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")
    map_ = Scan(whole_adc, adc.affine, kind="adc", image_type=derived)
    save(
        tmp_path / "study",
        classic_images([plain, weighted], siemens),
        classic_images([map_], nothing, number=4, description="ADC"),
    )

    options = ("--backend", "ort", "--no-self-check", "-o")
    nifti = (dwi.get_filename(), "--adc", tmp_path / "adc.nii.gz")
    done = run(*nifti, *options, tmp_path / "nifti", *formats("mask", "report"))
    assert done.returncode == 0, done.stderr
    done = run(tmp_path / "study", *options, tmp_path / "dicom", *formats(*FORMATS))
    assert done.returncode == 0, done.stderr

    ours = nibabel.load(tmp_path / "nifti" / "sub-raw02_dwi_lesion_mask.nii.gz")
    theirs = nibabel.load(tmp_path / "dicom" / "study_lesion_mask.nii.gz")
    expected, affine = written_order(np.asarray(ours.dataobj), ours.affine)
    np.testing.assert_allclose(theirs.affine, affine, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(theirs.dataobj), expected)
    indices = np.argwhere(np.asarray(ours.dataobj)).astype(np.float64)
    places = in_order(Grid(shape, ours.affine).to_mm(indices))
    assert len(places) > 20
    found = world_of_frames(pydicom.dcmread(tmp_path / "dicom" / "study_lesion_seg.dcm"))
    np.testing.assert_allclose(in_order(found), places, rtol=0, atol=1e-4)

    report = json.loads((tmp_path / "nifti" / "sub-raw02_dwi_report.json").read_text())["lesions"]
    lesions = [*report["each"], *report["rejected"]]
    assert report["rejected"]
    centres = np.array([lesion["centre_mm"] for lesion in lesions])
    points = points_of(pydicom.dcmread(tmp_path / "dicom" / "study_report_sr.dcm"))
    np.testing.assert_allclose(in_order(points), in_order(centres), rtol=0, atol=1e-3)


def points_of(report: pydicom.FileDataset) -> NDArray[np.float64]:
    """Positions (n, 3) in RAS+ mm of the points of an SR."""
    graphics = (each.value for each in report.iterall() if each.keyword == "GraphicData")
    return np.array(list(graphics), np.float64) * [-1, -1, 1]


def test_no_lesion_is_reported_and_not_segmented(tmp_path: Path, bright_bundle: Path) -> None:
    study = study_of(tmp_path / "study", empty=True)
    options = ("-o", tmp_path / "out", "--bundle", bright_bundle, "--backend", "ort")
    done = run(study, *options, "--no-self-check", *formats(*FORMATS))
    assert done.returncode == 0, done.stderr
    assert "not written: dicom-seg: the mask is empty" in done.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "study_report_sr.dcm" in names
    assert "study_lesion_seg.dcm" not in names
    report = json.loads((tmp_path / "out" / "study_report.json").read_text())
    assert list(report["not_written"]) == ["dicom-seg"]


def test_a_nifti_has_no_dicom_outputs(tmp_path: Path) -> None:
    volume, _ = blob_volume()
    path = tmp_path / "a.nii.gz"
    save_volume(path, volume.data, volume.grid)
    done = run(path, "-o", tmp_path / "out", *formats("mask", "dicom-sr"))
    assert done.returncode == 2
    assert "dicom-sr can only be written of a DICOM study" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_array_has_no_dicom_outputs(tmp_path: Path, bright_bundle: Path) -> None:
    with Predictor.load(bright_bundle, "ort", self_check=False) as predictor:
        result = predictor.predict(blob_volume()[0])
    with pytest.raises(UsageError, match="DICOM study"):
        result.save(tmp_path / "out", ("mask", "dicom-seg"))
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_said_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnres_infer.batch import Job
    from cnnres_infer.outputs import save as outputs

    monkeypatch.setattr(outputs, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"cnnres-infer\[dicom\]"):
        Job(formats=("dicom-seg",)).check([study_of(tmp_path / "study")])
    Job(formats=("mask",)).check([tmp_path / "study"])


def test_an_enhanced_file_is_named_as_its_outputs(tmp_path: Path, bright_bundle: Path) -> None:
    volume, _ = blob_volume()
    trace = Scan(volume.data.astype(np.uint16), volume.grid.affine, 1000.0, "trace")
    image = enhanced_image([b0_of(trace), trace])
    image.save_as(tmp_path / "scan.dcm")
    with Predictor.load(bright_bundle, "ort", self_check=False) as predictor:
        saved = predictor.predict(tmp_path / "scan.dcm").save(tmp_path, ("dicom-labelmap",))
    assert saved["dicom-labelmap"].name == "scan_lesion_labelmap.dcm"
