"""Jobs of submitit, run by its local executor."""

import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from cnnres_infer.cohort import slurm
from cnnres_infer.cohort.find import find_cases
from cnnres_infer.cohort.segment import Status
from cnnres_infer.cohort.slurm import run_slurm
from cnnres_infer.errors import BackendUnavailableError, CnnresError, UsageError
from tests.cohort.support import claims, killer, masks, settings, wait_for, write_dataset

pytest.importorskip("submitit")


@pytest.mark.slow
def test_jobs_share_the_cases(
    tmp_path: Path, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four processes for each job would take long to start here.
    monkeypatch.setattr(slurm, "_CPUS_PER_JOB", 1)
    cases = find_cases(write_dataset(tmp_path / "raw", 5)).cases
    here = settings(tmp_path / "out", bright_bundle)
    with killer(here.out, "sub-004", most=1) as killed:
        outcomes = list(run_slurm(here, cases, threading.Event(), "none", jobs=2, cluster="local"))
    assert len(killed) == 1
    assert Counter(each.status for each in outcomes) == {Status.DONE: 5}
    assert len(masks(here.out)) == 5
    assert not claims(here.out)


@pytest.mark.slow
def test_jobs_hear_that_no_case_is_to_begin(
    tmp_path: Path, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "_PAUSE_S", 0.1)
    cases = find_cases(write_dataset(tmp_path / "raw", 60)).cases
    here = settings(tmp_path / "out", bright_bundle)
    stop = threading.Event()

    def end() -> None:
        wait_for(lambda: masks(here.out), "a mask")
        stop.set()

    threading.Thread(target=end).start()
    outcomes = list(run_slurm(here, cases, stop, "none", jobs=1, cluster="local"))
    assert 1 <= len(outcomes) < 60
    assert len(masks(here.out)) == len(outcomes)
    assert not claims(here.out)
    assert not list((here.out / ".cnnres" / "jobs").glob("stop-*"))


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_the_run(tmp_path: Path, bright_bundle: Path) -> None:
    cases = find_cases(write_dataset(tmp_path / "raw", 1)).cases
    here = replace(settings(tmp_path / "out", bright_bundle), backend="abacus")
    with pytest.raises(CnnresError, match="abacus"):
        list(run_slurm(here, cases, threading.Event(), "none", jobs=1, cluster="local"))


def test_without_slurm(
    tmp_path: Path, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = settings(tmp_path / "out", bright_bundle)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="jobs cannot be submitted from here"):
        list(run_slurm(here, (), threading.Event(), "short"))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(BackendUnavailableError, match=r"cnnres-infer\[slurm\]"):
        list(run_slurm(here, (), threading.Event(), "short"))
