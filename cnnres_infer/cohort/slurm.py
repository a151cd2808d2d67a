"""A cohort as an array of Slurm jobs, each of which segments a share of the cases."""

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cnnres_infer.cohort.case import CohortCase
from cnnres_infer.cohort.claims import MOST_ATTEMPTS
from cnnres_infer.cohort.local import run_local
from cnnres_infer.cohort.markers import STATE
from cnnres_infer.cohort.segment import Outcome, fail, recall
from cnnres_infer.cohort.settings import Settings
from cnnres_infer.errors import (
    BackendUnavailableError,
    CnnresError,
    EngineRunError,
    UsageError,
)

SLURM = "slurm"
_PAUSE_S = 1.0
_DEFAULT_JOBS = 8
_CPUS_PER_JOB = 4
_MINUTES = 24 * 60


def run_slurm(
    settings: Settings,
    cases: Sequence[CohortCase],
    stop: threading.Event,
    partition: str,
    jobs: int | None = None,
    cluster: str = SLURM,
) -> Iterator[Outcome]:
    """Segment cases in an array of jobs.

    Each job has its share of the cases, and runs them as `run_local` does. What a
    job leaves when it is killed goes into another array.

    Parameters
    ----------
    settings, cases, stop
        See `cnnres_infer.cohort.local.run_local`. The paths must be the same on
        all nodes.
    partition
        The partition.
    jobs
        Number of jobs.
    cluster
        The executor of submitit; ``"local"`` runs the jobs on this machine.

    Yields
    ------
    Outcome
        What has become of each case, when its job has ended.

    Raises
    ------
    BackendUnavailableError
        If submitit is not installed.
    UsageError
        If there is no Slurm.
    """
    try:
        import submitit
    except ImportError as error:
        raise BackendUnavailableError(
            f"submitit is not installed ({error})", "pip install 'cnnres-infer[slurm]'"
        ) from error
    try:
        executor = submitit.AutoExecutor(settings.out / STATE / "jobs", cluster=cluster)
    except RuntimeError as error:
        raise UsageError(f"jobs cannot be submitted from here ({error})") from error
    executor.update_parameters(
        cpus_per_task=_CPUS_PER_JOB,
        timeout_min=_MINUTES,
        name="cnnres-cohort",
        **({"slurm_partition": partition} if cluster == SLURM else {}),
    )
    # Jobs on other machines hear of it when this file appears.
    stopped = settings.out / STATE / "jobs" / f"stop-{secrets.token_hex(8)}"
    left, reason = list(cases), "no reason was given"
    # A case ends its job at most so often, if other jobs do not end for reasons of their own.
    for _ in range(MOST_ATTEMPTS + 1):
        shares = _shares(left, jobs or _DEFAULT_JOBS)
        count = len(shares)
        submitted = executor.map_array(_work, [settings] * count, shares, [stopped] * count)
        for job in _as_they_end(submitted, stop, stopped):
            outcomes, reason = _outcomes(job, settings, shares[submitted.index(job)], reason)
            done = {outcome.name for outcome in outcomes}
            left = [case for case in left if case.name not in done]
            yield from outcomes
        if not left or stop.is_set():
            return
    for case in left:
        lost = EngineRunError(f"{case.volume}: its jobs ended before it was segmented ({reason})")
        yield fail(case, settings, lost)


def _shares(cases: Sequence[CohortCase], jobs: int) -> list[list[CohortCase]]:
    count = min(jobs, len(cases))
    return [list(cases[first::count]) for first in range(count)]


def _work(
    settings: Settings, cases: list[CohortCase], stopped: Path
) -> list[Outcome] | CnnresError:
    """What a job does; an error that no case is to blame for is its result as well."""
    stop = threading.Event()

    def watch() -> None:
        while not stopped.exists():
            time.sleep(_PAUSE_S)
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    try:
        return list(run_local(settings, cases, stop))
    except CnnresError as error:
        return error


def _as_they_end(submitted: Sequence[Any], stop: threading.Event, stopped: Path) -> Iterator[Any]:
    """Jobs as they end, all of which hear of `stop`."""
    running = deque(submitted)
    try:
        while running:
            if stop.is_set():
                stopped.touch()
            job = running.popleft()
            if job.done():
                yield job
            else:
                running.append(job)
                time.sleep(_PAUSE_S / len(running))
    finally:
        # After an error, nobody waits for them any more.
        for job in running:
            job.cancel()
        stopped.unlink(missing_ok=True)


def _outcomes(
    job: Any, settings: Settings, share: list[CohortCase], reason: str
) -> tuple[list[Outcome], str]:
    """Outcomes of a job; of one that was killed, those on disk, and why it was."""
    try:
        answer = job.result()
    except Exception as error:
        known = [outcome for case in share if (outcome := recall(case, settings)) is not None]
        return known, str(error).strip().rpartition("\n")[2]
    if isinstance(answer, CnnresError):
        raise answer
    return answer, reason
