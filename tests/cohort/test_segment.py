"""One case: done once, recalled, claimed, and recorded where it fails."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cnnres_infer.cohort import markers
from cnnres_infer.cohort.case import CohortCase, Skip
from cnnres_infer.cohort.claims import MOST_ATTEMPTS, Claims, Owner
from cnnres_infer.cohort.derivative import Paths
from cnnres_infer.cohort.find import find_cases
from cnnres_infer.cohort.markers import Fingerprint, Records
from cnnres_infer.cohort.plan import Plan, forget_failures, record_skips, share_of
from cnnres_infer.cohort.segment import Outcome, Status, recall, segment
from cnnres_infer.cohort.settings import Settings
from cnnres_infer.core.case import Modality
from cnnres_infer.errors import BundleError, UsageError
from cnnres_infer.host import atomic
from cnnres_infer.limits import Limits
from cnnres_infer.predictor import Predictor
from tests.cohort.support import claims, masks, settings, write_damaged, write_dataset, write_dwi
from tests.conftest import BundleMaker


@pytest.fixture(scope="module")
def predictor(bright_bundle: Path) -> Predictor:
    return Predictor.load(bright_bundle, "ort", "fp32", self_check=False)


@pytest.fixture
def case(tmp_path: Path) -> CohortCase:
    (only,) = find_cases(write_dataset(tmp_path / "raw", 1)).cases
    return only


@pytest.fixture
def here(tmp_path: Path, bright_bundle: Path) -> Settings:
    return settings(tmp_path / "out", bright_bundle)


def test_a_case_is_segmented_once(case: CohortCase, here: Settings, predictor: Predictor) -> None:
    def unused() -> Predictor:
        pytest.fail("the model was loaded for nothing")

    before = case.volume.read_bytes()
    first = segment(case, here, lambda: predictor)
    assert (first.status, first.lesions) == (Status.DONE, 1)
    written = Paths.of(case, here.out).mask.stat().st_mtime_ns
    again = segment(case, here, unused)
    assert again == replace(first, status=Status.UNCHANGED, seconds=None)
    assert Paths.of(case, here.out).mask.stat().st_mtime_ns == written
    assert not claims(here.out)
    assert case.volume.read_bytes() == before


def test_inputs_are_told_by_content(case: CohortCase, here: Settings, predictor: Predictor) -> None:
    segment(case, here, lambda: predictor)
    os.utime(case.volume, (0, 0))
    assert (known := recall(case, here)) is not None
    assert known.status is Status.UNCHANGED
    write_dwi(case.volume, 5)
    assert (known := recall(case, here)) is not None
    assert known.error is not None
    assert known.error["code"] == "E-OUTPUT-EXISTS"
    assert "made from other inputs" in known.error["message"]
    assert recall(case, replace(here, overwrite=True)) is None


@pytest.mark.parametrize("swap", ["paths", "files"])
def test_swapped_inputs_of_the_same_size_and_time_are_told_apart(
    case: CohortCase, here: Settings, swap: str
) -> None:
    other = case.volume.with_name("other.nii.gz")
    write_dwi(other, 5)
    size = max(case.volume.stat().st_size, other.stat().st_size)
    for path in (case.volume, other):
        os.truncate(path, size)
        os.utime(path, (0, 0))
    made_from = Fingerprint.of(case, here.options)
    assert made_from.describes(case, here.options)
    if swap == "paths":
        case = replace(case, volume=other)
    else:
        case.volume.replace(case.volume.with_name("first"))
        other.replace(case.volume)
    assert not made_from.describes(case, here.options)


def test_what_lies_beside_an_image_belongs_to_it(case: CohortCase, here: Settings) -> None:
    alone = Fingerprint.of(case, here.options)
    case.volume.with_name(case.volume.name.replace(".nii.gz", ".json")).write_text("{}")
    assert Fingerprint.of(case, here.options).key != alone.key
    assert not alone.describes(case, here.options)


@pytest.mark.parametrize("change", [{"bvalue": 900.0}, {"overlay": True}, {"digest": "0" * 64}])
def test_other_options_or_models_replace_masks_only_when_asked(
    case: CohortCase, here: Settings, predictor: Predictor, change: dict[str, object]
) -> None:
    segment(case, here, lambda: predictor)
    other = replace(here, **change)  # type: ignore[arg-type]
    before = masks(here.out)
    refused = segment(case, other, lambda: predictor)
    assert refused.error is not None
    assert refused.error["code"] == "E-OUTPUT-EXISTS"
    assert refused.is_outdated
    (argument,) = change
    name = {"digest": "bundle"}.get(argument, argument)
    assert f"made with other settings (`{name}`)" in refused.error["message"]
    # It is not the case that failed.
    assert not list(Records(here.out))
    replaced = segment(case, replace(other, overwrite=True), lambda: predictor)
    assert replaced.status is Status.DONE
    assert masks(here.out) == before


def test_the_b_value_of_dwis_is_not_that_of_a_flair(
    case: CohortCase, here: Settings, predictor: Predictor
) -> None:
    alone = replace(case, modality=Modality.FLAIR)
    outcome = segment(alone, replace(here, bvalue=900.0), lambda: predictor)
    assert outcome.status is Status.DONE, outcome.error


def test_a_case_has_the_mask_of_one_modality(
    case: CohortCase, here: Settings, predictor: Predictor
) -> None:
    flair = replace(case, modality=Modality.FLAIR)
    here = replace(here, overlay=True, probabilities=True)
    segment(case, here, lambda: predictor)
    before = {path: path.read_bytes() for path in here.out.rglob("sub-*.*")}
    refused = segment(flair, here, lambda: predictor)
    assert refused.is_outdated
    assert refused.error is not None
    assert "made from a DWI" in refused.error["message"]
    assert before == {path: path.read_bytes() for path in here.out.rglob("sub-*.*")}
    # As for any other change, it can be replaced, and nothing is left of it.
    replaced = segment(flair, replace(here, overwrite=True), lambda: predictor)
    assert replaced.status is Status.DONE
    assert [Path(path).parent.name for path in masks(here.out)] == ["anat"]
    assert not list(here.out.rglob("dwi/*"))
    assert len(list(here.out.rglob("sub-*.*"))) == len(before)
    assert segment(flair, here, lambda: predictor).status is Status.UNCHANGED


def test_replacing_a_mask_leaves_that_of_the_other_modality(
    case: CohortCase, here: Settings, predictor: Predictor, tmp_path: Path
) -> None:
    flair, elsewhere = replace(case, modality=Modality.FLAIR), replace(here, out=tmp_path / "other")
    segment(case, here, lambda: predictor)
    segment(flair, elsewhere, lambda: predictor)
    shutil.copytree(elsewhere.out, here.out, dirs_exist_ok=True)
    write_dwi(case.volume, 7)
    assert segment(case, replace(here, overwrite=True), lambda: predictor).status is Status.DONE
    assert {Path(path).parent.name for path in masks(here.out)} == {"anat", "dwi"}


def test_markers_without_inodes_need_no_reading(
    case: CohortCase, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = Fingerprint.of(case, here.options)
    former = {
        role: {**entry, "files": [each[:3] for each in entry["files"]]}
        for role, entry in now.inputs.items()
    }
    monkeypatch.setattr(markers, "_hashed", lambda _: pytest.fail("it was read"))
    assert replace(now, inputs=former).describes(case, here.options)


def test_a_mask_of_unknown_origin_is_not_replaced(
    case: CohortCase, here: Settings, predictor: Predictor
) -> None:
    mask = Paths.of(case, here.out).mask
    mask.parent.mkdir(parents=True)
    mask.write_bytes(b"mine")
    assert segment(case, here, lambda: predictor).error is not None
    assert mask.read_bytes() == b"mine"


def test_a_failed_case_is_recorded_and_tried_again_when_asked(
    case: CohortCase, here: Settings, predictor: Predictor
) -> None:
    write_damaged(case.volume)
    failed = segment(case, here, lambda: predictor)
    assert failed.status is Status.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "E-NIFTI-TRUNCATED"
    assert str(case.volume) in failed.error["message"]
    assert not masks(here.out)
    # Folders often name people.
    assert str(case.volume.parent) not in json.dumps(Records(here.out).read(case.name))
    again = segment(case, here, lambda: predictor)
    assert again.status is Status.FAILED_BEFORE
    forget_failures([case], here)
    assert segment(case, here, lambda: predictor).status is Status.FAILED
    # A corrected image is another one.
    write_dwi(case.volume)
    assert segment(case, here, lambda: predictor).status is Status.DONE
    assert not list(Records(here.out))


def test_a_case_in_the_hands_of_another_process_is_left_to_it(
    case: CohortCase, here: Settings, predictor: Predictor
) -> None:
    with Claims(here.out / ".cnnres" / "claims").take(case.name) or pytest.fail("not taken"):
        assert segment(case, here, lambda: predictor).status is Status.BUSY
    assert segment(case, here, lambda: predictor).status is Status.DONE


def test_a_case_that_ends_processes_is_given_up(
    case: CohortCase, here: Settings, predictor: Predictor
) -> None:
    folder = here.out / ".cnnres" / "claims"
    folder.mkdir(parents=True)
    dead = Owner(Owner.of_this_process().host, 2**22 + 1, "1")
    for attempt in range(1, MOST_ATTEMPTS + 1):
        (folder / f"{case.name}.{attempt}").write_text(json.dumps(vars(dead)))
    lost = segment(case, here, lambda: predictor)
    assert lost.error is not None
    assert lost.error["code"] == "E-PROCESS-LOST"
    assert not claims(here.out)
    assert segment(case, here, lambda: predictor).status is Status.FAILED_BEFORE
    forget_failures([case], here)
    assert segment(case, here, lambda: predictor).status is Status.DONE


def test_who_lost_the_claim_writes_nothing(
    case: CohortCase, here: Settings, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object, **__: object) -> object:
        (here.out / ".cnnres" / "claims" / f"{case.name}.2").write_text("")
        return original(*_, **__)  # type: ignore[arg-type]

    original = predictor.predict
    monkeypatch.setattr(predictor, "predict", slow)
    outcome = segment(case, here, lambda: predictor)
    assert outcome.error is not None
    assert not masks(here.out)


def test_a_failed_write_leaves_nothing_and_the_next_run_succeeds(
    case: CohortCase, here: Settings, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(atomic._Staged, "commit", full)
        outcome = segment(case, here, lambda: predictor)
    assert outcome.error is not None
    assert outcome.error["code"] == "E-OUTPUT-WRITE"
    assert not list(here.out.rglob("sub-*.*"))
    assert segment(case, here, lambda: predictor).status is Status.DONE


def test_leftovers_of_a_killed_process_are_replaced(
    case: CohortCase, here: Settings, predictor: Predictor
) -> None:
    paths = Paths.of(case, here.out)
    hidden = atomic._hidden(paths.mask)
    for path in (paths.sidecar, paths.thumbnail, paths.overlay, hidden):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"unfinished")
    assert segment(case, here, lambda: predictor).status is Status.DONE
    assert not hidden.exists()
    # No overlay was asked for, and one of another run would not belong to the mask.
    assert not paths.overlay.exists()


def test_a_time_limit_holds_for_each_case(
    case: CohortCase, here: Settings, predictor: Predictor
) -> None:
    short = replace(here, limits=Limits(timeout=1e-9))
    outcome = segment(case, short, lambda: predictor)
    assert outcome.error is not None
    assert outcome.error["code"] == "E-LIMIT-TIME"


def test_another_bundle_is_not_run(here: Settings, make_bundle: BundleMaker) -> None:
    other = make_bundle(version="2")
    with pytest.raises(BundleError, match="not the bundle that the cohort was started with"):
        replace(here, bundle=other).load()


def test_plans_and_shards(tmp_path: Path, here: Settings, predictor: Predictor) -> None:
    found = find_cases(write_dataset(tmp_path / "raw", 5))
    write_damaged(found.cases[1].volume)
    for case in found.cases[:2]:
        segment(case, here, lambda: predictor)
    plan = Plan.make(found, here)
    assert [case.name for case in plan.to_do] == ["sub-003", "sub-004", "sub-005"]
    assert [known.status for known in plan.known] == [Status.UNCHANGED, Status.FAILED_BEFORE]
    assert len(Plan.make(found, here, retry=True).to_do) == 4
    shares = [share_of(found, f"{i}/3").cases for i in (1, 2, 3)]
    assert sorted(case.name for share in shares for case in share) == [
        case.name for case in found.cases
    ]
    for wrong in ("0/3", "4/3", "1", "a/b", "1/", "-1/3"):
        with pytest.raises(UsageError, match="give i/n"):
            share_of(found, wrong)


def test_what_is_no_longer_skipped_is_forgotten(tmp_path: Path, here: Settings) -> None:
    raw = write_dataset(tmp_path / "raw", 1)
    for name in ("sub-002", "sub-003/ses-a", "sub-003/ses-b"):
        (raw / name / "anat").mkdir(parents=True)
    record_skips(find_cases(raw), here)
    Records(here.out).skip(Skip("p1", "no dwi with adc"))
    skipped = [name for name, _ in Records(here.out)]
    assert skipped == ["p1", "sub-002", "sub-003_ses-a", "sub-003_ses-b"]
    write_dwi(raw / "sub-002/dwi/sub-002_run-1_dwi.nii.gz")
    write_dwi(raw / "sub-003/ses-a/dwi/sub-003_ses-a_dwi.nii.gz")
    # What was not asked for keeps its record.
    record_skips(find_cases(raw, participants=["001"]), here)
    assert [name for name, _ in Records(here.out)] == skipped
    record_skips(find_cases(raw), here)
    assert [name for name, _ in Records(here.out)] == ["p1", "sub-003_ses-b"]
    record_skips(find_cases(write_dwi(tmp_path / "p1.nii.gz")), here)
    assert [name for name, _ in Records(here.out)] == ["sub-003_ses-b"]


def test_outcomes_are_plain() -> None:
    outcome = Outcome("a", Status.FAILED, {"code": "E-X"}, traceback="secret")
    assert outcome.to_json()["status"] == "failed"
    assert "traceback" not in outcome.to_json()


def test_a_missing_file_is_named_by_its_code(
    case: CohortCase, here: Settings, predictor: Predictor
) -> None:
    case.volume.unlink()
    failed = segment(case, here, lambda: predictor)
    assert failed.error is not None
    assert failed.error["code"] == "E-FILE-MISSING"
