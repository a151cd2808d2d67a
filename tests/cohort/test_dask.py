"""A real scheduler and separate workers over loopback, some of which are killed."""

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cnnres_infer.cohort.dask import LOCAL, run_dask
from cnnres_infer.cohort.find import find_cases
from cnnres_infer.cohort.segment import Outcome
from cnnres_infer.cohort.settings import Settings
from cnnres_infer.errors import BackendUnavailableError, UsageError
from tests.cohort.support import claims, killer, masks, scheduler, settings, write_dataset

pytest.importorskip("distributed")


@pytest.mark.slow
def test_a_case_that_kills_workers_is_given_up(tmp_path: Path, bright_bundle: Path) -> None:
    cases = find_cases(write_dataset(tmp_path / "raw", 3)).cases
    here = settings(tmp_path / "out", bright_bundle)
    with (
        scheduler(tmp_path, workers=4) as address,
        killer(here.out, "sub-002", most=9) as killed,
    ):
        outcomes = {each.name: each for each in run_dask(here, cases, threading.Event(), address)}
    assert len(killed) == 3
    assert len(outcomes) == 3
    assert outcomes["sub-002"].error is not None
    assert outcomes["sub-002"].error["code"] == "E-PROCESS-LOST"
    assert len(masks(here.out)) == 2
    assert not claims(here.out)


@pytest.mark.slow
def test_a_scheduler_that_gives_up_cases_is_refused(tmp_path: Path, bright_bundle: Path) -> None:
    here = settings(tmp_path / "out", bright_bundle)
    with (
        scheduler(tmp_path, workers=1, allowed=0) as address,
        pytest.raises(UsageError, match=r"allowed-failures to at least 3"),
    ):
        list(run_dask(here, (), threading.Event(), address))


@pytest.mark.slow
def test_workers_of_this_machine_share_its_cores(
    tmp_path: Path, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def results(client: object, given: Settings, *_: object) -> Iterator[Outcome]:
        threads.append(given.threads)
        return iter(())

    monkeypatch.setattr("cnnres_infer.cohort.dask._results", results)
    monkeypatch.setattr("cnnres_infer.cohort.local.usable_cores", lambda: 8)
    here = settings(tmp_path / "out", bright_bundle)
    for given in (here, replace(here, threads=3)):
        assert not list(run_dask(given, (), threading.Event(), LOCAL, jobs=2))
    assert threads == [4, 3]


def test_no_scheduler(tmp_path: Path, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = settings(tmp_path / "out", bright_bundle)
    monkeypatch.setattr("cnnres_infer.cohort.dask._CONNECT_S", 0.5)
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        list(run_dask(here, (), threading.Event(), "tcp://127.0.0.1:9"))
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        list(run_dask(here, (), threading.Event(), "nonsense://x"))


def test_without_dask(tmp_path: Path, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BackendUnavailableError, match=r"cnnres-infer\[dask\]"):
        list(run_dask(settings(tmp_path, bright_bundle), (), threading.Event()))
