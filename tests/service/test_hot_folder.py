"""When a case is complete."""

import time
from pathlib import Path

import pytest

from cnnres_infer.errors import UsageError
from cnnres_infer.service.hot_folder import HotFolder


def names(folder: HotFolder) -> list[list[str]]:
    return [[path.name for path in arrival.paths] for arrival in folder.complete()]


def test_a_case_is_complete_once_it_is_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    folder = HotFolder(tmp_path, 30)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "1").write_text("a")
    assert names(folder) == []
    now += 20
    (tmp_path / "study" / "2").write_text("b")
    assert names(folder) == []
    now += 20
    assert names(folder) == [], "it has changed since"
    now += 15
    assert names(folder) == [["study"]]


def test_growing_restarts_the_wait(tmp_path: Path) -> None:
    folder = HotFolder(tmp_path, 0.0)
    (tmp_path / "a.zip").write_text("a")
    (arrival,) = folder.complete()
    assert folder.is_unchanged(arrival)
    (tmp_path / "a.zip").write_text("ab")
    assert not folder.is_unchanged(arrival)


def test_sidecars_go_with_their_image_and_are_no_cases(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.bval", "a.json", "b.bval", "c.nii", "c.bvec"):
        (tmp_path / name).write_text(name)
    found = sorted(names(HotFolder(tmp_path, 0.0)))
    assert found == [["a.bval", "a.json", "a.nii.gz"], ["c.bvec", "c.nii"]]


@pytest.mark.parametrize("name", [".hidden", "a.nii.gz.part", "a.tmp", "working", "log.jsonl"])
def test_what_is_no_case_yet_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    assert names(HotFolder(tmp_path, 0.0)) == []


def test_an_empty_folder_is_no_case_yet(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    assert names(HotFolder(tmp_path, 0.0)) == []


def test_the_longest_waiting_comes_first(tmp_path: Path) -> None:
    for name in ("z", "a"):
        (tmp_path / f"{name}.nii").write_text("")
        time.sleep(0.02)
    assert names(HotFolder(tmp_path, 0.0)) == [["z.nii"], ["a.nii"]]


@pytest.mark.parametrize("settle", [-1.0, 1e9, float("nan")])
def test_a_bad_wait_is_refused(tmp_path: Path, settle: float) -> None:
    with pytest.raises(UsageError, match="settle"):
        HotFolder(tmp_path, settle)
