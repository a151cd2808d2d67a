import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from cnnres_infer import Predictor
from cnnres_infer.core.failure import Failure
from cnnres_infer.core.jsonable import dumps
from cnnres_infer.core.result import Result
from cnnres_infer.engines import BACKENDS
from cnnres_infer.errors import InputError, OutputError, OutputExistsError, UsageError
from cnnres_infer.outputs import save as outputs
from cnnres_infer.outputs.writers import UNIVERSAL_FORMATS, WRITERS, Writer
from cnnres_infer.outputs.writers.report import Refusal, Report
from tests.conftest import blob_volume

REFUSAL = Refusal(Path("blob.nii"), Failure.of(InputError("no brain")))


@pytest.fixture(scope="module")
def result(bright_bundle: Path) -> Result:
    with Predictor.load(bright_bundle) as predictor:
        return predictor.predict(blob_volume()[0])


def test_all_outputs_are_written(result: Result, tmp_path: Path) -> None:
    saved = result.save(tmp_path / "new", UNIVERSAL_FORMATS)
    assert [path.name for path in saved.paths.values()] == [
        "blob_report.json",
        "blob_lesion_prob.nii.gz",
        "blob_cnnres_brain.nii.gz",
        "blob_overlay.png",
        "blob_report.html",
        "blob_lesion_mask.nii.gz",
    ]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        p.name for p in saved.paths.values()
    }
    mask = nibabel.load(saved["mask"])
    assert np.array_equal(np.asarray(mask.dataobj), result.mask.data)
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_allclose(mask.affine, result.volume.grid.affine, atol=1e-5)
    probabilities = nibabel.load(saved["probabilities"])
    assert np.array_equal(np.asarray(probabilities.dataobj), result.probabilities.data)


def test_a_brain_that_was_written_is_taken_back(bright_bundle: Path, tmp_path: Path) -> None:
    volume, _ = blob_volume()
    with Predictor.load(bright_bundle) as predictor:
        found = predictor.predict(volume)
        given = predictor.predict(volume, brain_mask=found.save(tmp_path, ["brain"])["brain"])
        handed_on = predictor.predict(volume, brain_mask=found.brain)
    assert 0 < found.brain.volume_ml < volume.data.size * volume.grid.voxel_ml
    assert np.array_equal(given.brain.data, found.brain.data)
    assert np.array_equal(given.mask.data, found.mask.data)
    assert given.provenance.brain == "given"
    assert np.array_equal(handed_on.mask.data, found.mask.data)


def test_only_requested_formats_are_written(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path, ("mask", "report"))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"blob_report.json", "blob_lesion_mask.nii.gz"}


@pytest.mark.parametrize("standing", ["blob_lesion_mask.nii.gz", "blob_report.json"])
def test_outputs_are_overwritten_only_on_request(
    result: Result, tmp_path: Path, standing: str
) -> None:
    (tmp_path / standing).write_text("precious")
    with pytest.raises(OutputExistsError, match=standing):
        result.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [standing]
    assert (tmp_path / standing).read_text() == "precious"
    result.save(tmp_path, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 3


def test_outputs_of_a_completed_run_without_its_mask_are_kept(
    result: Result, tmp_path: Path
) -> None:
    saved = result.save(tmp_path, UNIVERSAL_FORMATS)
    saved["mask"].unlink()
    left = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(left) == len(UNIVERSAL_FORMATS) - 1
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        result.save(tmp_path)
    outputs.save_refusal(tmp_path, "blob", REFUSAL)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == left
    result.save(tmp_path, overwrite=True)
    assert saved["mask"].exists()


def test_a_failed_overwrite_keeps_the_previous_outputs(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = result.save(tmp_path, UNIVERSAL_FORMATS)
    saved["report"].write_text("former")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    replace = Path.replace
    failed: list[Path] = []

    def full(self: Path, target: Path) -> Path:
        if target == saved["mask"] and not failed:
            failed.append(target)
            raise OSError(28, os.strerror(28))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        result.save(tmp_path, ("mask", "report"), overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_only_the_report_of_a_failed_run_is_replaced_without_overwrite(
    result: Result, tmp_path: Path
) -> None:
    (tmp_path / "blob_overlay.png").write_text("precious")
    outputs.save_refusal(tmp_path, "blob", REFUSAL)
    with pytest.raises(OutputExistsError, match="overlay"):
        result.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["blob_overlay.png"]
    assert (tmp_path / "blob_overlay.png").read_text() == "precious"


def test_a_file_instead_of_the_folder_is_refused(result: Result, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        result.save(tmp_path / "file")


@pytest.mark.parametrize("name", ["../other", "/tmp/other", "a/b", "a\\b", "", "a\0b"])
def test_no_name_leads_out_of_the_folder(result: Result, tmp_path: Path, name: str) -> None:
    named = replace(result, volume=replace(result.volume, name=name))
    with pytest.raises(UsageError, match="name"):
        named.save(tmp_path / "out")
    assert not list(tmp_path.rglob("*_mask.nii.gz"))


def test_overwriting_deletes_all_outputs_of_an_earlier_run(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path, UNIVERSAL_FORMATS)
    result.save(tmp_path, ("mask", "report"), overwrite=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"blob_report.json", "blob_lesion_mask.nii.gz"}


def test_the_report_describes_the_lesions(result: Result) -> None:
    report = json.loads(dumps(Report.of(result)))
    lesions = report["lesions"]
    assert lesions["count"] == 1
    assert lesions["volume_ml"] == pytest.approx(result.mask.volume_ml)
    assert lesions["each"][0]["voxels"] == int(result.mask.data.sum())
    area = sum(lesions["area_mm2_by_slice"].values())
    assert area * 5.0 / 1000 == pytest.approx(result.mask.volume_ml, rel=1e-3)
    areas = {int(z) for z in lesions["area_mm2_by_slice"]}
    assert areas == set(np.flatnonzero(result.mask.data.any(axis=(0, 1))))
    assert report["engine"]["backend"] in BACKENDS
    assert report["model"]["bundle_sha256"]
    assert report["research_use_only"] is True
    assert report["grid"]["shape"] == [60, 70, 20]
    assert report["versions"]["numpy"] == np.__version__


def test_the_mask_is_last_wherever_a_format_stands_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WRITERS, "later", Writer("_later.txt", "none"))
    assert list(outputs.plan_all(tmp_path, "a"))[-1] == "mask"


def test_formats_are_listed_in_alphabetical_order_and_given_as_a_list(
    result: Result, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no output format 'foo'; choose from brain, dicom-labelm"):
        result.save(tmp_path, ["foo"])
    with pytest.raises(UsageError, match=r"as a list, such as \['mask'\], not as a string"):
        result.save(tmp_path, "mask")
    assert not list(tmp_path.iterdir())
