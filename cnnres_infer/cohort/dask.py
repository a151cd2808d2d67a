"""A cohort on the workers of a Dask scheduler, on this machine or on many."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from cnnres_infer.cohort.case import CohortCase
from cnnres_infer.cohort.claims import MOST_ATTEMPTS
from cnnres_infer.cohort.local import default_jobs, share_threads
from cnnres_infer.cohort.segment import Outcome, Status, fail, segment
from cnnres_infer.cohort.settings import Settings
from cnnres_infer.errors import BackendUnavailableError, EngineRunError, UsageError
from cnnres_infer.predictor import Predictor

if TYPE_CHECKING:
    from distributed import Client, Future

LOCAL = "local"
_CONNECT_S = 30.0
_BUSY_PAUSE_S = 2.0
# How often to look whether no more cases are to begin.
_PAUSE_S = 0.5

# The model of this worker, which all of its cases share.
_loading = threading.Lock()
_loaded: dict[Settings, Predictor] = {}


def run_dask(
    settings: Settings,
    cases: Sequence[CohortCase],
    stop: threading.Event,
    scheduler: str = LOCAL,
    jobs: int | None = None,
) -> Iterator[Outcome]:
    """Segment cases on the workers of a Dask scheduler, each case a task.

    Cases are claimed on disk by whoever segments them, so that a task which is
    run again, since its worker died or was cut off, does nothing twice.

    Parameters
    ----------
    settings, cases, stop
        See `cnnres_infer.cohort.local.run_local`. The paths must be the same on
        all workers.
    scheduler
        Address of the scheduler, such as ``tcp://host:8786``, or ``local``.
    jobs
        Number of workers of a local one.

    Yields
    ------
    Outcome
        What has become of each case, as it comes.

    Raises
    ------
    BackendUnavailableError
        If Dask is not installed.
    UsageError
        If there is no scheduler, or it gives up cases too early.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise BackendUnavailableError(
            f"Dask is not installed ({error})", "pip install 'cnnres-infer[dask]'"
        ) from error
    with ExitStack() as stack:
        address: Any = scheduler
        if scheduler == LOCAL:
            jobs = jobs or default_jobs(len(cases))
            settings = share_threads(settings, jobs)
            address = stack.enter_context(
                LocalCluster(
                    n_workers=jobs,
                    threads_per_worker=1,
                    dashboard_address=None,
                )
            )
        try:
            client = stack.enter_context(Client(address, timeout=_CONNECT_S, set_as_default=False))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{scheduler}: no Dask scheduler answers ({error}); start one with `dask scheduler`"
            ) from error
        _check_scheduler(client)
        yield from _results(client, settings, cases, stop)


def _check_scheduler(client: "Client") -> None:
    """Check that the scheduler tries a case again as often as we do."""
    allowed = client.run_on_scheduler(_allowed_failures)
    if allowed < MOST_ATTEMPTS:
        raise UsageError(
            f"the scheduler gives up a case when {allowed + 1} workers have died with it; set its "
            f"distributed.scheduler.allowed-failures to at least {MOST_ATTEMPTS}"
        )


def _allowed_failures(dask_scheduler: Any) -> int:
    return int(dask_scheduler.allowed_failures)


def _results(
    client: "Client", settings: Settings, cases: Sequence[CohortCase], stop: threading.Event
) -> Iterator[Outcome]:
    running: dict[Future, CohortCase] = {}
    ended: queue.Queue[Future] = queue.Queue()
    waiting = [(0.0, case) for case in cases]
    try:
        while running or waiting:
            if stop.is_set():
                waiting = []
                _cancel_unstarted(client, running)
            now = time.monotonic()
            for _, case in (each for each in waiting if each[0] <= now):
                task = client.submit(_task, settings, case, key=_key(case), pure=False)
                running[task] = case
                task.add_done_callback(ended.put)
            waiting = [each for each in waiting if each[0] > now]
            with suppress(queue.Empty):
                future = ended.get(timeout=_PAUSE_S)
                # Those that were called off end as well.
                if future in running:
                    case = running.pop(future)
                    outcome = _outcome(future, settings, case)
                    if outcome.status is Status.BUSY:
                        waiting.append((time.monotonic() + _BUSY_PAUSE_S, case))
                    else:
                        yield outcome
    finally:
        client.cancel(list(running))


def _cancel_unstarted(client: "Client", running: "dict[Future, CohortCase]") -> None:
    """Call off what no worker has in hand; what one has is finished."""
    begun = {key for keys in client.processing().values() for key in keys}
    idle = [each for each in running if not each.done() and each.key not in begun]
    client.cancel(idle)
    for each in idle:
        del running[each]


def _outcome(future: "Future", settings: Settings, case: CohortCase) -> Outcome:
    from distributed import KilledWorker

    error = future.exception()
    if isinstance(error, KilledWorker):
        lost = EngineRunError(f"{case.volume}: the scheduler gave it up ({error})")
        return fail(case, settings, lost)
    if error is not None:
        raise error
    outcome: Outcome = future.result()
    return outcome


def _key(case: CohortCase) -> str:
    return f"{case.name}-{time.monotonic_ns()}"


def _task(settings: Settings, case: CohortCase) -> Outcome:
    """Segment a case on a worker."""
    return segment(case, settings, lambda: _predictor(settings))


def _predictor(settings: Settings) -> Predictor:
    with _loading:
        if settings not in _loaded:
            for other in list(_loaded):
                _loaded.pop(other).close()
            _loaded[settings] = settings.load()
        return _loaded[settings]
