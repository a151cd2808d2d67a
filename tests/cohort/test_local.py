"""Processes of this machine: nothing lost when one is killed, nothing done twice."""

import signal
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from cnnres_infer.cohort.find import find_cases
from cnnres_infer.cohort.local import _Worker, default_jobs, run_local
from cnnres_infer.cohort.segment import Status
from cnnres_infer.cohort.settings import Settings
from cnnres_infer.errors import CnnresError, LimitError
from cnnres_infer.limits import Limits
from tests.cohort.support import (
    claims,
    killer,
    masks,
    settings,
    wait_for,
    write_damaged,
    write_dataset,
)

pytestmark = pytest.mark.slow


def test_a_killed_process_loses_nothing(tmp_path: Path, bright_bundle: Path) -> None:
    cases = find_cases(write_dataset(tmp_path / "raw", 6)).cases
    write_damaged(cases[4].volume)
    here = settings(tmp_path / "out", bright_bundle)
    with killer(here.out, "sub-003", most=1) as killed:
        outcomes = list(run_local(here, cases, threading.Event(), jobs=2))
    assert len(killed) == 1
    assert Counter(each.status for each in outcomes) == {Status.DONE: 5, Status.FAILED: 1}
    assert {each.name for each in outcomes} == {case.name for case in cases}
    assert len(masks(here.out)) == 5
    assert not claims(here.out)


def test_a_case_that_ends_each_process_is_given_up(tmp_path: Path, bright_bundle: Path) -> None:
    cases = find_cases(write_dataset(tmp_path / "raw", 3)).cases
    here = settings(tmp_path / "out", bright_bundle)
    with killer(here.out, "sub-001", most=9) as killed:
        outcomes = {each.name: each for each in run_local(here, cases, threading.Event(), jobs=1)}
    assert len(killed) == 3
    assert outcomes["sub-001"].error is not None
    assert outcomes["sub-001"].error["code"] == "E-PROCESS-LOST"
    assert {outcomes[name].status for name in ("sub-002", "sub-003")} == {Status.DONE}
    assert not claims(here.out)


def test_no_case_begins_once_it_is_told_to_stop(tmp_path: Path, bright_bundle: Path) -> None:
    cases = find_cases(write_dataset(tmp_path / "raw", 5)).cases
    here = settings(tmp_path / "out", bright_bundle)
    stop = threading.Event()
    outcomes = []
    for outcome in run_local(here, cases, stop, jobs=1):
        outcomes.append(outcome)
        stop.set()
    assert 1 <= len(outcomes) <= 3
    assert len(masks(here.out)) == len(outcomes)
    assert not claims(here.out)


@pytest.mark.parametrize("hung", [False, True])
def test_who_stops_asking_does_not_wait_for_the_case_in_hand(
    tmp_path: Path, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch, hung: bool
) -> None:
    workers = []

    class Recorded(_Worker):
        def __init__(self, given: Settings) -> None:
            super().__init__(given)
            workers.append(self._process)

    monkeypatch.setattr("cnnres_infer.cohort.local._Worker", Recorded)
    cases = find_cases(write_dataset(tmp_path / "raw", 12)).cases
    here = settings(tmp_path / "out", bright_bundle)
    outcomes = run_local(here, cases, threading.Event(), jobs=1)
    next(outcomes)
    wait_for(lambda: claims(here.out), "a claim")
    (worker,) = workers
    if hung:
        worker.send_signal(signal.SIGSTOP)
    thread = threading.Thread(target=outcomes.close, daemon=True)  # type: ignore[attr-defined]
    try:
        thread.start()
        thread.join(timeout=30)
        assert not thread.is_alive()
        assert worker.poll() is not None
        assert len(masks(here.out)) < 12
        # Who could let go of the case in hand has done so.
        assert hung or not claims(here.out)
    finally:
        worker.kill()


def test_a_model_that_cannot_be_loaded_ends_the_run(tmp_path: Path, bright_bundle: Path) -> None:
    cases = find_cases(write_dataset(tmp_path / "raw", 2)).cases
    here = replace(settings(tmp_path / "out", bright_bundle), backend="abacus")
    with pytest.raises(CnnresError, match="abacus"):
        list(run_local(here, cases, threading.Event(), jobs=2))
    # No case is to blame.
    assert not list((tmp_path / "out").rglob("*.json"))


def test_a_process_that_does_not_return_in_time_is_ended(
    tmp_path: Path, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnres_infer.cohort.local._NOTICE_S", 0.0)
    cases = find_cases(write_dataset(tmp_path / "raw", 1)).cases
    here = replace(settings(tmp_path / "out", bright_bundle), limits=Limits(timeout=0.01))
    (outcome,) = run_local(here, cases, threading.Event(), jobs=1)
    assert outcome.error is not None
    assert outcome.error["code"] == "E-LIMIT-TIME"
    assert outcome.error["exit_status"] == LimitError.exit_status


def test_default_number_of_processes() -> None:
    assert default_jobs(1) == 1
    assert 1 <= default_jobs(10_000) <= 1024
