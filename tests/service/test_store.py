"""What is kept of what is received, and what is answered."""

import os
import shutil
import stat
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cnnres_infer.service.record import Outcome
from cnnres_infer.service.state import ORIGINALS, WorkArea, open_area
from cnnres_infer.service.store import (
    MISMATCH,
    NO_SPACE,
    NOT_UNDERSTOOD,
    SUCCESS,
    Store,
    hashed,
)
from tests.fakes.dicom import encode
from tests.service.studies import images, instance


@pytest.fixture
def made() -> list[FileDataset]:
    return images()[:3]


def store_in(folder: Path, min_free: int = 0) -> tuple[WorkArea, Store]:
    with open_area(folder, folder / "incoming") as area:
        store = Store(area, min_free, 0.5)
        store.recover()
        return area, store


def finish(area: WorkArea, store: Store, study: str, status: str = "done") -> Path:
    case = store.claim(area.incoming / study, 1.0, 2.0)
    case = case.write(replace(case.record, outcome=Outcome(status, 3.0, code="E-X", message="no")))
    return area.finish(case)


def test_raw_bytes_are_kept_under_hashes(tmp_path: Path, made: list[FileDataset]) -> None:
    area, store = store_in(tmp_path)
    for image in made:
        assert store.put(instance(image)) == (SUCCESS, True)
    study = area.incoming / hashed(made[0].StudyInstanceUID)
    files = {each.name: each.read_bytes() for each in study.iterdir()}
    assert files == {f"{hashed(each.SOPInstanceUID)}.dcm": encode(each) for each in made}
    assert list(area.incoming.iterdir()) == [study]


@pytest.mark.parametrize("status", ["", "working", "done", "failed"])
def test_sent_again_it_is_answered_and_not_kept(
    tmp_path: Path, made: list[FileDataset], status: str
) -> None:
    area, store = store_in(tmp_path)
    for image in made:
        store.put(instance(image))
    name = hashed(made[0].StudyInstanceUID)
    if status == "working":
        store.claim(area.incoming / name, 1.0, 2.0)
    elif status:
        finish(area, store, name, status)
    assert [store.put(instance(image)) for image in made] == [(SUCCESS, False)] * 3
    assert len(list(tmp_path.rglob("*.dcm"))) == 3


def test_a_study_that_grows_is_claimed_whole_again(tmp_path: Path, made: list[FileDataset]) -> None:
    area, store = store_in(tmp_path)
    name = hashed(made[0].StudyInstanceUID)
    for number, image in enumerate(made, 1):
        assert store.put(instance(image)) == (SUCCESS, True)
        folder = finish(area, store, name, "failed" if number == 1 else "done")
        assert folder.name == (name if number == 1 else f"{name}-{number}")
        assert len(list((folder / ORIGINALS / folder.name).iterdir())) == number


def test_a_study_that_is_computed_again_is_known(tmp_path: Path, made: list[FileDataset]) -> None:
    """Moved back from ``done``, whose folder is still there: it comes under another name then."""
    area, store = store_in(tmp_path)
    name = hashed(made[0].StudyInstanceUID)
    assert store.put(instance(made[0])) == (SUCCESS, True)
    done = finish(area, store, name)
    (done / ORIGINALS / name).rename(area.incoming / name)
    again = finish(area, store, name)
    assert again != done
    assert store.put(instance(made[0])) == (SUCCESS, False)
    assert store.put(instance(made[1])) == (SUCCESS, True)
    assert len(list((finish(area, store, name) / ORIGINALS).rglob("*.dcm"))) == 2


def test_a_study_is_known_whose_first_folder_was_removed(
    tmp_path: Path, made: list[FileDataset]
) -> None:
    area, store = store_in(tmp_path)
    name = hashed(made[0].StudyInstanceUID)
    store.put(instance(made[0]))
    first = finish(area, store, name)
    store.put(instance(made[1]))
    finish(area, store, name)
    shutil.rmtree(first)
    assert store.put(instance(made[0])) == store.put(instance(made[1])) == (SUCCESS, False)
    assert store.put(instance(made[2])) == (SUCCESS, True)
    third = finish(area, store, name)
    assert third.name == f"{name}-3", "not the name of results that exist"
    assert len(list((third / ORIGINALS / third.name).iterdir())) == 3


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_others_cannot_read_what_arrives(tmp_path: Path, made: list[FileDataset]) -> None:
    before = os.umask(0)
    try:
        area, store = store_in(tmp_path)
        store.put(instance(made[0]))
        with open_area(tmp_path / "new"):
            pass
    finally:
        os.umask(before)
    (file,) = area.incoming.rglob("*.dcm")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_an_object_is_held_once(tmp_path: Path, made: list[FileDataset]) -> None:
    _, store = store_in(tmp_path)
    made[0].PixelData = bytes(1 << 22)
    made[0].add_new(0x00204000, "LT", "x" * (1 << 20))
    sent = instance(made[0])
    tracemalloc.start()
    try:
        assert store.put(sent) == (SUCCESS, True)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_cannot_be_understood_or_is_another_object(
    tmp_path: Path, made: list[FileDataset]
) -> None:
    area, store = store_in(tmp_path)
    good = instance(made[0])
    assert store.put(replace(good, data=b"nothing of the kind"))[0] == NOT_UNDERSTOOD
    assert store.put(replace(good, data=b""))[0] == NOT_UNDERSTOOD
    assert store.put(replace(good, sop_instance="1.2.3"))[0] == MISMATCH
    assert store.put(replace(good, sop_class="1.2.3"))[0] == MISMATCH
    del made[0].StudyInstanceUID
    assert store.put(instance(made[0]))[0] == NOT_UNDERSTOOD
    assert list(area.incoming.iterdir()) == []


def test_deflated_objects_are_kept_as_they_are(
    tmp_path: Path, made: list[FileDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    made[0].file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    sent = instance(made[0])
    area, store = store_in(tmp_path)
    monkeypatch.setattr("cnnres_infer.service.store._MOST_INFLATED", 1000)
    assert store.put(sent)[0] == NOT_UNDERSTOOD, "more than is allowed"
    monkeypatch.undo()
    assert store.put(replace(sent, data=sent.data[:100]))[0] == NOT_UNDERSTOOD, "truncated"
    assert store.put(sent) == (SUCCESS, True)
    (file,) = area.incoming.rglob("*.dcm")
    assert file.read_bytes() == sent.meta + sent.data
    assert file.parent.name == hashed(made[0].StudyInstanceUID)


def test_a_full_disk_is_answered(tmp_path: Path, made: list[FileDataset]) -> None:
    area, store = store_in(tmp_path, 1 << 60)
    assert store.put(instance(made[0])) == (NO_SPACE, False)
    area.incoming.rmdir()
    assert store_in(tmp_path)[1].put(instance(made[0])) == (SUCCESS, True)


def test_what_was_being_written_is_removed(tmp_path: Path) -> None:
    area, store = store_in(tmp_path)
    (area.incoming / ".left").write_text("")
    store.recover()
    assert list(area.incoming.iterdir()) == []


def test_an_interrupted_study_waits_for_its_sender(tmp_path: Path, made: list[FileDataset]) -> None:
    name = hashed(made[0].StudyInstanceUID)
    _, store = store_in(tmp_path)
    store.put(instance(made[0]), "first")
    store.put(instance(made[1]), "second")
    store.end("first", released=True)
    assert store.wait_s(name) == 60.0, "the second one may have more"
    store.end("second", released=True)
    assert store.wait_s(name) == 0.5
    store.put(instance(made[1]), "aborted")
    store.end("aborted", released=False)
    assert store.wait_s(name) == 60.0
    store.put(instance(made[1]), "first")
    store.end("first", released=True)
    assert store.wait_s(name) == 0.5
    store.put(instance(made[1]), "first")
    # The process ends, and the sender comes back.
    _, store = store_in(tmp_path)
    assert store.wait_s(name) == 60.0
    assert store.put(instance(made[0]), "third") == (SUCCESS, False)
    assert store.wait_s(name) == 60.0
    store.end("third", released=True)
    assert store.wait_s(name) == 0.5
    assert store_in(tmp_path)[1].wait_s(name) == 0.5
