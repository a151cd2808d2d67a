"""`watch` and `listen` as processes: from what arrives to results, and after kills."""

import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import pytest
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage
from typer.testing import CliRunner

from cnnres_infer.cli.app import app
from cnnres_infer.outputs.writers import WRITERS
from cnnres_infer.service.sop_classes import STORED
from cnnres_infer.service.state import open_area
from cnnres_infer.service.store import Store
from cnnres_infer.service.worker import MOST_ATTEMPTS
from tests import commands
from tests.service.studies import (
    SETTLE,
    Process,
    images,
    log_lines,
    wait_for,
    write_nifti,
    write_study,
)
from tests.service.test_pushing import archive

pytestmark = pytest.mark.slow
# Not the script of the same name that pynetdicom installs beside Python.
STORESCU = shutil.which("storescu", path="/usr/bin:/usr/local/bin")
DCIODVFY = shutil.which("dciodvfy")
# Those of DICOM input.
DICOM = [name for name in ("dicom-seg", "dicom-sr", "dicom-sc") if name in WRITERS]
ENGINE = ("--backend", "ort", "--no-self-check", "--threads", 1)


def watching(folder: Path, bundle: Path, *options: object) -> Process:
    (folder / "in").mkdir(exist_ok=True)
    settings = ("--settle", SETTLE, "--bundle", bundle, *ENGINE, *options)
    return Process("watch", folder / "in", folder / "out", *settings, folder=folder)


def listening(folder: Path, bundle: Path, *options: object) -> Process:
    settings = ("--port", 0, "--settle", SETTLE, "--bundle", bundle, *ENGINE, *options)
    return Process("listen", folder / "area", *settings, folder=folder)


def send(port: int, study: Path) -> None:
    """Send as a scanner does: dcmtk's storescu, or pynetdicom where that is not installed."""
    if STORESCU is not None:
        command = [STORESCU, "+sd", "+r", "127.0.0.1", str(port), str(study)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return
    entity = AE()
    entity.add_requested_context(MRImageStorage)
    association = entity.associate("127.0.0.1", port)
    for path in sorted(study.rglob("I*")):
        assert association.send_c_store(dcmread(path)).Status == 0
    association.release()


def assert_valid(path: Path) -> None:
    """Have dicom3tools look at an object, where that is installed."""
    if DCIODVFY is not None:
        done = subprocess.run([DCIODVFY, path], capture_output=True, text=True, check=False)
        errors = [each for each in done.stderr.splitlines() if each.startswith("Error")]
        assert errors == []


def test_a_hot_folder(tmp_path: Path, bright_bundle: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    with watching(tmp_path, bright_bundle):
        write_nifti(tmp_path / "scan.nii.gz").rename(root / "scan.nii.gz")
        shutil.copytree(write_study(tmp_path / "made"), root / "study")
        (root / "notes.txt").write_text("no volume")
        wait_for(lambda: len(log_lines(root)) == 3)
        wait_for(lambda: (root / "failed" / "notes.txt").exists())
        # The same name once more: nothing is overwritten.
        shutil.copytree(tmp_path / "made", root / "study")
        wait_for(lambda: len(log_lines(root)) == 4)
        wait_for(lambda: not list((root / "working").iterdir()))
    statuses = sorted((line["status"], line["code"]) for line in log_lines(root)[:3])
    assert statuses == [("done", None), ("done", None), ("failed", "E-FILE-NAME")] or statuses == [
        ("done", None), ("done", None), ("failed", "E-NIFTI-HEADER")
    ]  # fmt: skip
    assert log_lines(root)[3]["code"] == "E-OUTPUT-EXISTS"
    assert {path.name for path in (root / "done").iterdir()} == {"scan", "study"}
    assert {path.name for path in (root / "failed").iterdir()} == {"notes.txt", "study"}
    assert "already exists" in (root / "failed" / "study" / "reason.txt").read_text()
    assert (root / "failed" / "notes.txt" / "originals" / "notes.txt").read_text() == "no volume"
    for name in ("scan", "study"):
        assert nibabel.load(out / f"{name}_lesion_mask.nii.gz").get_fdata().any()
    log = (root / "log.jsonl").read_text() + (root / "metrics.prom").read_text()
    for secret in ("Secret", "SECRET", "scan", "study_", "notes"):
        assert secret not in log


def test_a_hot_folder_that_is_killed_goes_on(tmp_path: Path, bright_bundle: Path) -> None:
    root = tmp_path / "in"
    with watching(tmp_path, bright_bundle):
        write_nifti(tmp_path / "scan.nii.gz").rename(root / "scan.nii.gz")
        wait_for(lambda: list((root / "working").iterdir()))
    with watching(tmp_path, bright_bundle):
        wait_for(lambda: (root / "done" / "scan").exists())
    (line,) = log_lines(root)
    assert line["status"] == "done"
    assert line["attempts"] in (1, 2)


def test_a_case_that_ends_the_process_each_time_is_given_up(
    tmp_path: Path, bright_bundle: Path
) -> None:
    root = tmp_path / "in"
    root.mkdir()
    with open_area(root) as area:
        scan = write_nifti(root / "scan.nii.gz")
        case = area.claim("scan", [scan], scan.name, 1.0, 2.0)
        case.write(replace(case.record, attempts=MOST_ATTEMPTS))
    with watching(tmp_path, bright_bundle):
        wait_for(lambda: (root / "failed" / "scan" / "reason.txt").exists())
    assert "E-SERVICE-ENDED" in (root / "failed" / "scan" / "reason.txt").read_text()


def test_a_case_over_its_time_is_failed_and_not_tried_again(
    tmp_path: Path, bright_bundle: Path
) -> None:
    root = tmp_path / "in"
    (tmp_path / "in").mkdir()
    write_nifti(root / "scan.nii.gz")
    with watching(tmp_path, bright_bundle):
        wait_for(lambda: (root / "done" / "scan").exists())
    shutil.rmtree(root / "done")
    shutil.rmtree(tmp_path / "out")
    write_nifti(root / "scan.nii.gz")
    with watching(tmp_path, bright_bundle, "--max-bytes", "1K"):
        wait_for(lambda: (root / "failed" / "scan" / "reason.txt").exists())
    assert "E-LIMIT-BYTES" in (root / "failed" / "scan" / "reason.txt").read_text()


def test_a_listener(tmp_path: Path, bright_bundle: Path) -> None:
    """What arrives is computed once, in time, and pushed."""
    area, study, pushed = tmp_path / "area", write_study(tmp_path / "study"), tmp_path / "pushed"
    pushed.mkdir()
    with archive([], *STORED, folder=pushed) as (pacs, stored):
        target = ("--send-to", f"127.0.0.1:{pacs}/PACS")
        with listening(tmp_path, bright_bundle, *target) as process:
            send(process.port, study)
            sent = time.monotonic()
            wait_for(lambda: log_lines(area))
            waited = time.monotonic() - sent
            send(process.port, study)
            (line,) = log_lines(area)
            # On a busy machine, the allowance of two seconds is too little to rely on.
            assert waited < float(SETTLE) + line["computed_s"] + 6
            wait_for(lambda: not list((area / "receiving").iterdir()))
            time.sleep(2 * float(SETTLE))
            wait_for(lambda: len(stored) == len(DICOM))
            status = commands.run("cnnres_infer", "status", area)
    assert sorted(stored) == sorted(path.name for path in pushed.iterdir()), "each once"
    for path in pushed.iterdir():
        found = dcmread(path)
        assert found.StudyInstanceUID == images()[0].StudyInstanceUID
        assert_valid(path)
    assert len(log_lines(area)) == 1
    assert line["status"] == "done"
    assert line["lesions"] == 1
    (done,) = (area / "done").iterdir()
    assert len(list((done / "originals").rglob("*.dcm"))) == 24
    assert (area / "out" / f"{done.name}_lesion_mask.nii.gz").exists()
    assert status.returncode == 0
    assert "running" in status.stdout
    assert "1 done" in status.stdout
    assert "to the result: median " in status.stdout
    said = "".join(each.read_text() for each in (area / "log.jsonl", area / "metrics.prom"))
    said += (tmp_path / "stderr.txt").read_text() + process.line + status.stdout
    assert "Secret" not in said
    assert "SECRET" not in said
    assert str(images()[0].StudyInstanceUID) not in said


def test_the_recovery_steps_of_the_documentation(tmp_path: Path, bright_bundle: Path) -> None:
    area, out, study = tmp_path / "area", tmp_path / "area" / "out", write_study(tmp_path / "study")

    def try_again(folder: Path) -> None:
        (originals,) = (folder / "originals").iterdir()
        originals.rename(area / "incoming" / originals.name)

    def remove_results(name: str) -> None:
        for path in out.glob(f"{name}_*"):
            path.unlink()

    with archive([], *STORED) as (pacs, stored):
        target = ("--send-to", f"127.0.0.1:{pacs}/PACS")
        with listening(tmp_path, bright_bundle, *target) as process:
            send(process.port, study)
            wait_for(lambda: list((area / "done").iterdir()))
            (done,) = (area / "done").iterdir()
            wait_for(lambda: len(stored) == len(DICOM))
            # Results that stand are not overwritten, and nothing is lost by that.
            try_again(done)
            wait_for(lambda: list((area / "failed").iterdir()))
            (failed,) = (area / "failed").iterdir()
            assert "already exists" in (failed / "reason.txt").read_text()
            remove_results(done.name)
            try_again(failed)
            wait_for(lambda: [line["status"] for line in log_lines(area)][2:] == ["done"])
            wait_for(lambda: not list((area / "working").iterdir()))
            # It is known, wherever it is now.
            send(process.port, study)
            time.sleep(3 * float(SETTLE))
            assert list((area / "incoming").iterdir()) == []
            assert len(stored) == len(DICOM), "what was sent is not sent again"
            for path in (area / "outbox" / "sent").iterdir():
                path.rename(area / "outbox" / "pending" / path.name)
            wait_for(lambda: len(stored) == 2 * len(DICOM))
    hashes = {line["study"] for line in log_lines(area)}
    records = [path.read_text() for path in area.glob("*/*/record.json")]
    assert all(any(each in record for record in records) for each in hashes)


def test_a_listener_that_is_killed_loses_and_doubles_nothing(
    tmp_path: Path, bright_bundle: Path
) -> None:
    area, study = tmp_path / "area", write_study(tmp_path / "study")
    # While receiving: half of the study is there, and the sender starts again.
    with listening(tmp_path, bright_bundle) as process:
        entity = AE()
        entity.add_requested_context(MRImageStorage)
        association = entity.associate("127.0.0.1", process.port)
        for image in images()[:12]:
            assert association.send_c_store(image).Status == 0
    association.join()
    assert len(list((area / "incoming").rglob("*.dcm"))) == 12
    with listening(tmp_path, bright_bundle):
        time.sleep(3 * float(SETTLE))
    assert log_lines(area) == []
    # While computing.
    with listening(tmp_path, bright_bundle) as process:
        send(process.port, study)
        wait_for(lambda: list((area / "working").iterdir()))
    with listening(tmp_path, bright_bundle) as process:
        send(process.port, study)
        wait_for(lambda: log_lines(area))
        time.sleep(2 * float(SETTLE))
    assert [line["status"] for line in log_lines(area)] == ["done"]
    assert len(list((area / "done").iterdir())) == 1
    assert len(list((area / "out").glob("*_lesion_mask.nii.gz"))) == 1


def test_bad_settings_end_at_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    volume, received = write_nifti(tmp_path / "scan.nii.gz"), tmp_path / "received"
    with open_area(received, received / "incoming") as area:
        Store(area, 0).recover()
    for arguments, message in (
        (("watch", tmp_path / "none", tmp_path / "out"), "no such folder"),
        (("watch", tmp_path / "in", tmp_path / "in" / "out"), "choose another"),
        (("watch", tmp_path / "in", tmp_path / "out", "--settle", -1), "--settle"),
        (("watch", tmp_path / "in", tmp_path / "out", "--send-to", "pacs"), "--send-to"),
        (("watch", tmp_path / "in", tmp_path / "out", "--format", "x"), "no output format"),
        (("watch", tmp_path / "in", tmp_path / "out", "--modality", "ct"), "ct"),
        (("watch", tmp_path / "in", tmp_path / "out", "--metrics", volume), "no figures"),
        (("watch", received, tmp_path / "out"), "belongs to a listener"),
        (("listen", tmp_path / "area", "--out", tmp_path / "area/incoming/a"), "incoming/"),
        (("listen", tmp_path / "area", "--out", tmp_path / "area/done"), "done/"),
        (("listen", tmp_path / "area", "--host", "0.0.0.0"), "--allow"),
        (("listen", tmp_path / "area", "--max-pdu", "0"), "--max-pdu"),
        (("listen", tmp_path / "area", "--min-free", "much"), "not a size"),
        (("status", tmp_path / "nowhere"), "no service"),
    ):
        done = CliRunner().invoke(app, [*map(str, arguments)])
        assert done.exit_code == 2, done.stderr
        assert message in done.stderr
        assert not (tmp_path / "area").exists()
