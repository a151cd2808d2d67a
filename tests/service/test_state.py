"""The work area: claims, what is left behind, and what a person reads."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.errors import OutputError, UsageError
from cnnres_infer.host.durable import append_durably, write_durably
from cnnres_infer.host.lock import wait_for
from cnnres_infer.service.hot_folder import HotFolder
from cnnres_infer.service.record import Outcome, Record, from_time, to_time
from cnnres_infer.service.state import free_name, is_running, open_area, read_area


def put(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    return [folder / name for name in names]


@given(st.floats(0, 4e9))
def test_times_are_kept_to_the_millisecond(seconds: float) -> None:
    assert abs(from_time(to_time(seconds)) - seconds) < 2e-3
    assert to_time(from_time(to_time(seconds))) == to_time(seconds)


@pytest.mark.parametrize(
    "outcome",
    [None, Outcome("done", 10.0, 1.5, outputs=("a",), lesions=1, volume_ml=2.0, warnings=("W-X",))],
)
def test_a_record_is_kept(outcome: Outcome | None) -> None:
    record = Record("abc", "case.nii.gz", 1.0, 2.0, 3, outcome)
    assert Record.of(json.loads(json.dumps(record.to_json()))) == record


def test_a_claimed_case_is_moved_whole_and_finished(tmp_path: Path) -> None:
    paths = put(tmp_path, "case.bval", "case.nii.gz")
    with open_area(tmp_path) as area:
        case = area.claim("case", paths, "case.nii.gz", 1.0, 2.0)
        assert case.path.read_text() == "case.nii.gz"
        assert case.path.with_name("case.bval").exists()
        assert not paths[0].exists()
        assert [each.path for each in area.claimed()] == [case.path]
        failed = Outcome("failed", 3.0, code="E-X", message="because")
        folder = area.finish(case.write(replace(case.record, outcome=failed)))
    assert folder == tmp_path / "failed" / "case"
    assert (folder / "reason.txt").read_text() == "E-X: because\n"
    assert (folder / "originals" / "case.nii.gz").read_text() == "case.nii.gz"


@pytest.mark.parametrize("record", [None, "{", '{"name": "case"}'])
def test_what_was_not_claimed_whole_is_put_back(tmp_path: Path, record: str | None) -> None:
    with open_area(tmp_path) as area:
        put(area.working / "case" / "originals", "case.bval")
        if record is not None:
            (area.working / "case" / "record.json").write_text(record)
        assert list(area.claimed()) == []
        assert (tmp_path / "case.bval").exists()
        assert not (area.working / "case").exists()


def test_putting_back_overwrites_nothing(tmp_path: Path) -> None:
    with open_area(tmp_path) as area:
        put(area.working / "case" / "originals", "case.nii")
        (tmp_path / "case.nii").write_text("new")
        assert list(area.claimed()) == []
        assert (tmp_path / "case.nii").read_text() == "new"
        assert (area.failed / "case" / "originals" / "case.nii").read_text() == "case.nii"
        assert "record is missing" in (area.failed / "case" / "reason.txt").read_text()


def test_a_claim_of_what_is_gone_leaves_nothing(tmp_path: Path) -> None:
    with open_area(tmp_path) as area:
        with pytest.raises(FileNotFoundError):
            area.claim("case", [tmp_path / "case.nii"], "case.nii", 1.0, 2.0)
        assert list(area.working.iterdir()) == []


@pytest.mark.parametrize("name", ["done", "outbox", "log.jsonl", "service.stuck", "incoming"])
def test_what_the_service_has_not_made_is_not_used(tmp_path: Path, name: str) -> None:
    put(tmp_path / name if "." not in name else tmp_path, "scan.nii", "log.jsonl", "service.stuck")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="in the way"), open_area(tmp_path, tmp_path / "incoming"):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_called_incoming_makes_no_listener(tmp_path: Path) -> None:
    with open_area(tmp_path):
        put(tmp_path / "incoming", "image")
        assert read_area(tmp_path).incoming == tmp_path
        assert list(HotFolder(tmp_path, 0.0).complete()) == []


def test_an_area_that_has_lost_its_lock_is_still_known(tmp_path: Path) -> None:
    with open_area(tmp_path) as area:
        known = area.study("case")
    put(tmp_path / "done" / "case", "image")
    (tmp_path / "service.lock").unlink()
    with open_area(tmp_path) as area:
        assert area.study("case") == known


def test_one_process_works_in_an_area(tmp_path: Path) -> None:
    with open_area(tmp_path):
        assert is_running(read_area(tmp_path))
        with pytest.raises(UsageError, match="another process"), open_area(tmp_path):
            pass
    assert not is_running(read_area(tmp_path))


def test_looking_whether_it_runs_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnres_infer.service.state._PATIENCE_S", 60.0)
    with open_area(tmp_path):
        pass
    area = read_area(tmp_path)

    def start() -> bool:
        with open_area(tmp_path):
            return False

    for refused in (start, lambda: is_running(area)):
        # As one that looks does, but for longer.
        descriptor = os.open(tmp_path / "service.lock", os.O_RDWR)
        wait_for(descriptor, 0.0)
        threading.Timer(0.1, os.close, (descriptor,)).start()
        assert not refused()


def test_an_area_says_what_it_is(tmp_path: Path) -> None:
    with open_area(tmp_path):
        pass
    text = (tmp_path / "README.txt").read_text()
    assert "originals/" in text
    with pytest.raises(UsageError, match="no service"):
        read_area(tmp_path / "done")


def test_a_file_of_the_name_of_the_explanation_is_kept(tmp_path: Path) -> None:
    readme = tmp_path / "README.txt"
    readme.write_text("mine")
    with open_area(tmp_path):
        pass
    assert readme.read_text() == "mine"
    readme.write_text("This folder belongs to the service of cnnres-infer.\nOutdated.")
    with open_area(tmp_path):
        pass
    assert "originals/" in readme.read_text()


def test_identifiers_are_hashed_with_a_secret_of_the_area(tmp_path: Path) -> None:
    with open_area(tmp_path / "a") as first, open_area(tmp_path / "b") as second:
        assert first.study("Person") == first.study("Person") != first.study("Other")
        assert first.study("Person") != second.study("Person")
    with open_area(tmp_path / "a") as again:
        assert again.study("Person") == first.study("Person")
    assert (tmp_path / "a" / "service.salt").stat().st_mode & 0o077 == 0


def test_an_area_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), open_area(tmp_path / "file"):
        pass


def test_a_line_that_was_cut_short_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b'{"a": 1}\n{"b"')
    append_durably(log, '{"c": 3}')
    assert log.read_text().splitlines() == ['{"a": 1}', '{"b"', '{"c": 3}']


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_durably(tmp_path / "a", b"old")
    write_durably(tmp_path / "a", b"n", b"ew")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    assert free_name(tmp_path / "a") == tmp_path / "a-2"
