"""The loop and the worker, in this process: what is tried again, and what is given up."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cnnres_infer.batch import Job
from cnnres_infer.errors import LimitError, OutputError
from cnnres_infer.outputs.writers import DEFAULT_FORMATS, WRITERS
from cnnres_infer.predictor import Predictor
from cnnres_infer.service import run as loop
from cnnres_infer.service import stuck
from cnnres_infer.service.build import Running, Settings, hot_folder
from cnnres_infer.service.state import ClaimedCase, WorkArea
from cnnres_infer.service.status import read_status
from cnnres_infer.service.worker import formats_for
from tests.service.studies import log_lines, write_nifti, write_study


@contextmanager
def serving(
    root: Path, bundle: Path, metrics: Path | None = None, **options: Any
) -> Iterator[Running]:
    (root / "in").mkdir(exist_ok=True)
    job = Job(out=root / "out", formats=("report",))
    settings = Settings(root / "in", job, 0.0, True, metrics=metrics)

    def load() -> Predictor:
        return Predictor.load(bundle, "ort", threads=1, self_check=False)

    with hot_folder(settings, load, **options) as running:
        yield running


def fail_first(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, failures: list[OSError]
) -> None:
    """Let a method raise each of the failures, the last one first, before it works."""
    method = getattr(owner, name)

    def sometimes(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return method(*arguments)

    monkeypatch.setattr(owner, name, sometimes)


def test_a_disk_that_fails_for_a_while_is_waited_for(
    tmp_path: Path, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(28, "No space left on device"), OSError(5, "Input/output error")]
    fail_first(monkeypatch, WorkArea, "finish", failures)
    monkeypatch.setattr(loop, "_AGAIN_S", 0.0)
    with serving(tmp_path, bright_bundle) as running:
        write_nifti(tmp_path / "in" / "case.nii.gz")
        done = tmp_path / "in" / "done" / "case"
        running.service.run(done.exists)
    assert [line["status"] for line in log_lines(tmp_path / "in")] == ["done"]


def test_a_case_that_cannot_be_moved_does_not_hold_up_the_others(
    tmp_path: Path,
    bright_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root, denied, rename = tmp_path / "in", ["study"], Path.rename

    def unless_denied(source: Path, target: Path) -> Path:
        if source.parent == root and source.name in denied:
            raise PermissionError(13, "Permission denied")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", unless_denied)
    monkeypatch.setattr(stuck, "_AGAIN_S", 0.2)
    with serving(tmp_path, bright_bundle) as running:
        (root / "study").mkdir()
        write_nifti(root / "study" / "scan.nii.gz")
        write_nifti(root / "case.nii.gz")
        running.service.run((root / "done" / "case").exists)
        until = time.monotonic() + 0.5
        running.service.run(lambda: time.monotonic() > until)
        (logged,) = (each.getMessage() for each in caplog.records)
        assert "cannot be moved" in logged
        assert "study" not in logged
        (said,) = read_status(root).stuck
        assert f"{root / 'study'}: cannot be moved (Permission denied)" in said
        assert list((root / "working").iterdir()) == []
        denied.clear()
        running.service.run((root / "failed" / "study").exists)
        running.service.run(lambda: not read_status(root).stuck)


def test_a_folder_for_claims_that_fails_is_no_fault_of_a_case(
    tmp_path: Path, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_first(monkeypatch, ClaimedCase, "write", [PermissionError(13, "Permission denied")])
    monkeypatch.setattr(loop, "_AGAIN_S", 0.0)
    with serving(tmp_path, bright_bundle) as running:
        write_nifti(tmp_path / "in" / "case.nii.gz")
        running.service.run((tmp_path / "in" / "done" / "case").exists)
        assert running.service.health.events["disk failed"] == 1


def test_a_case_under_way_fails_if_the_process_has_to_end(
    tmp_path: Path, bright_bundle: Path
) -> None:
    found: list[Running] = []

    @contextmanager
    def watch(path: Path) -> Iterator[None]:
        found[0].abandon(path, LimitError("it takes too long"))
        raise SystemExit
        yield

    with serving(tmp_path, bright_bundle, watch=watch) as running:
        found.append(running)
        write_nifti(tmp_path / "in" / "case.nii.gz")
        with pytest.raises(SystemExit):
            running.service.run()
    reason = tmp_path / "in" / "failed" / "case" / "reason.txt"
    assert reason.read_text() == "E-LIMIT-BYTES: it takes too long\n"
    assert [line["status"] for line in log_lines(tmp_path / "in")] == ["failed"]


def test_results_that_were_complete_are_not_computed_again(
    tmp_path: Path, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nifti(tmp_path / "case.nii.gz")
    root = tmp_path / "in"
    with serving(tmp_path, bright_bundle) as running:
        (tmp_path / "case.nii.gz").rename(root / "case.nii.gz")
        running.service.run((root / "done" / "case").exists)
    first = json.loads((root / "done" / "case" / "record.json").read_text())
    # As if the process had ended just before it noted the outcome.
    (root / "done" / "case").rename(root / "working" / "case")
    (root / "working" / "case" / "record.json").write_text(json.dumps({**first, "outcome": None}))
    (root / "log.jsonl").unlink()
    monkeypatch.setattr(Predictor, "predict", None)
    with serving(tmp_path, bright_bundle) as running:
        # Tried for the second time, as its record says once it is.
        record = {**first, "attempts": 1, "outcome": None}
        (root / "working" / "case" / "record.json").write_text(json.dumps(record))
        running.service.recover()
    (line,) = log_lines(root)
    assert (line["status"], line["lesions"]) == ("done", first["outcome"]["lesions"])
    assert line["volume_ml"] == first["outcome"]["volume_ml"]
    assert line["attempts"] == 2


def test_figures_that_cannot_be_written_are_refused_at_once(
    tmp_path: Path, bright_bundle: Path
) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError),
        serving(tmp_path, bright_bundle, tmp_path / "file" / "a.prom"),
    ):
        pass


def test_dicom_gets_dicom(tmp_path: Path) -> None:
    job = Job(out=tmp_path)
    assert formats_for(write_nifti(tmp_path / "a.nii.gz"), job) == DEFAULT_FORMATS
    formats = formats_for(write_study(tmp_path / "study"), job)
    dicom = {name for name in ("dicom-seg", "dicom-sr", "dicom-sc") if name in WRITERS}
    assert set(formats) == {*DEFAULT_FORMATS, *dicom}
