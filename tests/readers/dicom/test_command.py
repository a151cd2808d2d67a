"""A DICOM copy of a volume gives the same mask as its NIfTI, through the command line."""

import json
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from cnnres_infer import Predictor
from cnnres_infer.core.grid import Grid
from cnnres_infer.demo import SEED
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.readers.nifti.write import save_volume
from tests import commands
from tests.conftest import SHARED_DATA, BundleMaker, blob_volume
from tests.fakes.dicom import (
    Scan,
    archive,
    classic_images,
    enhanced_image,
    ge,
    mosaic_images,
    nothing,
    save,
    siemens,
    written_order,
)
from tests.readers.dicom.scans import FLAIR, TRACE

VOLUMES = sorted(SHARED_DATA.glob("volumes/*/*_dwi.nii.gz"))
LAYOUTS = ("classic", "enhanced", "mosaic")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return commands.run("cnnres_infer", *arguments)


def segment(*arguments: object) -> None:
    done = run(*arguments, "--no-self-check", "--backend", "ort", "--no-overlay")
    assert done.returncode == 0, done.stderr


def write_both(
    folder: Path, data: NDArray[np.floating], affine: NDArray[np.float64], layout: str
) -> None:
    """The volume, stored in 16 bits, as ``case.nii.gz`` and as the study ``case``."""
    low, high = float(data.min()), float(data.max())
    stored = np.round((data - low) * (4000 / (high - low))).astype(np.uint16)
    save_volume(folder / "case.nii.gz", stored, Grid(_shape(stored), affine))
    # The header of the NIfTI has the affine in 32 bits.
    affine = nibabel.load(folder / "case.nii.gz").affine
    trace = Scan(stored, affine, 1000.0, "trace")
    b0 = Scan(np.full_like(stored, 2000) - stored // 3, affine)
    images = {
        "classic": lambda: classic_images([b0, trace], ge),
        "enhanced": lambda: [enhanced_image([b0, trace])],
        "mosaic": lambda: mosaic_images([b0, trace]),
    }[layout]()
    save(folder / "case", images)


def _shape(data: NDArray[np.uint16]) -> tuple[int, int, int]:
    return int(data.shape[0]), int(data.shape[1]), int(data.shape[2])


def mask(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    image = nibabel.load(path)
    return np.asarray(image.dataobj), image.affine


def assert_same_mask(folder: Path, study: Path) -> None:
    out = folder / "out"
    # Each without a companion that the other lacks.
    segment(folder / "case.nii.gz", "-o", out / "nifti")
    segment(study, "-o", out / "dicom")
    expected, affine = mask(out / "nifti" / "case_lesion_mask.nii.gz")
    found, place = mask(out / "dicom" / "case_lesion_mask.nii.gz")
    expected, affine = written_order(expected, affine)
    np.testing.assert_allclose(place, affine, rtol=0, atol=1e-3)
    assert np.count_nonzero(expected) > 20
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_demo_as_dicom(layout: str, tmp_path: Path) -> None:
    phantom = make_phantom(SEED)
    write_both(tmp_path, phantom.data, phantom.affine, layout)
    assert_same_mask(tmp_path, tmp_path / "case")


def test_the_demo_in_an_archive(tmp_path: Path) -> None:
    phantom = make_phantom(SEED)
    write_both(tmp_path, phantom.data, phantom.affine, "classic")
    assert_same_mask(tmp_path, archive(tmp_path / "case.zip", tmp_path / "case"))


@pytest.mark.slow
@pytest.mark.usefixtures("shared_data")
@pytest.mark.parametrize("path", VOLUMES or [Path("none")], ids=lambda path: path.name)
def test_real_volumes_as_dicom(path: Path, tmp_path: Path) -> None:
    image = nibabel.load(path)
    write_both(tmp_path, np.asarray(image.get_fdata()), image.affine, "classic")
    assert_same_mask(tmp_path, tmp_path / "case")


def test_inspect_and_the_option_that_decides(tmp_path: Path, bright_bundle: Path) -> None:
    volume, _ = blob_volume()
    trace = Scan(volume.data.astype(np.uint16), volume.grid.affine, 1000.0, "trace")
    study = tmp_path / "study"
    save(study, classic_images([trace], siemens, number=3, description="first"))
    save(study, classic_images([trace], siemens, number=6, description="again"))
    options = ("--no-self-check", "--backend", "ort", "--bundle", bright_bundle)

    shown = run("inspect", study)
    assert shown.returncode == 3
    for each in ("first", "again", "b-value in Siemens (0019,100C)", "E-DICOM-SERIES", "--series"):
        assert each in shown.stdout
    refused = run(study, "-o", tmp_path / "out", *options)
    assert refused.returncode == 3
    assert "series 3 (first)" in refused.stderr
    assert "--series" in refused.stderr
    report = json.loads((tmp_path / "out" / "study_report.json").read_text())
    assert report["error"]["code"] == "E-DICOM-SERIES"

    table = json.loads(run("inspect", study, "--series", 6, "--json").stdout)
    assert [each["used_as"] for each in table["series"]] == [[], ["volume"]]
    done = run(study, "-o", tmp_path / "out", "--series", 6, *options)
    assert done.returncode == 0, done.stderr
    assert "W-DICOM-SERIES" in done.stdout
    report = json.loads((tmp_path / "out" / "study_report.json").read_text())
    assert "series 6 (again)" in report["warnings"][0]["text"]


def test_what_the_options_are_not_for(tmp_path: Path) -> None:
    save_volume(tmp_path / "a.nii.gz", TRACE.data, Grid(_shape(TRACE.data), TRACE.affine))
    for option in (("--series", 3), ("--bvalue", 50), ("--bvalue", 1000, "--modality", "flair")):
        done = run(tmp_path / "a.nii.gz", "-o", tmp_path, *option, "--no-self-check")
        assert done.returncode == 2, done.stderr
        assert option[0] in done.stderr


@pytest.mark.parametrize("modalities", [["dwi"], ["dwi", "flair"]], ids=len)
def test_the_flair_of_a_study_is_used_if_the_model_takes_one(
    modalities: list[str], tmp_path: Path, make_bundle: BundleMaker
) -> None:
    bundle = make_bundle(
        input={
            "channels": 1,
            "modalities": modalities,
            "size": 160,
            "spacing_mm": 1.25,
            "ceiling": 2,
        }
    )
    with Predictor.load(bundle, "ort", self_check=False) as predictor:
        inputs = predictor.predict(_with_flair(tmp_path)).provenance.inputs
    assert list(inputs) == [*modalities, "b0"]


def test_a_model_that_needs_the_flair_takes_that_of_a_study(
    tmp_path: Path, make_bundle: BundleMaker
) -> None:
    with Predictor.load(make_bundle(2), "ort", self_check=False) as predictor:
        inputs = predictor.predict(_with_flair(tmp_path)).provenance.inputs
    assert inputs["flair"] == "FLAIR of series 7 (t2_dark)"


def _with_flair(folder: Path) -> Path:
    volume, _ = blob_volume()
    trace = Scan(volume.data.astype(np.uint16), volume.grid.affine, 1000.0, "trace")
    b0 = trace.but(data=np.maximum(trace.data, 1) * 2, b=0.0, kind="b0")
    flair = trace.but(data=2 * trace.data, kind="flair", attributes=FLAIR.attributes)
    images = classic_images([flair], nothing, number=7, description="t2_dark")
    return save(folder, classic_images([b0, trace], siemens), images)
