"""A cohort on this machine: several processes, each of which segments whole cases.

Reading, brain extraction and writing of some cases overlap with the network of
others, with fewer threads waiting for one another than one process would have.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias

from cnnres_infer.cohort.case import CohortCase
from cnnres_infer.cohort.messages import answer_of, line
from cnnres_infer.cohort.segment import Outcome, Status, fail
from cnnres_infer.cohort.settings import Settings
from cnnres_infer.cohort.worker import LOADED
from cnnres_infer.errors import EngineRunError
from cnnres_infer.host.deadline import too_long
from cnnres_infer.host.machine import hardware, usable_cores

# A case that another process has in hand is asked for again after this.
_BUSY_PAUSE_S = 1.0
# How long a case may take to notice that its time is up.
_NOTICE_S = 5.0
# On a GPU, one process computes while the other reads and writes.
_JOBS_ON_GPU = 2
_MOST_STARTS = 3
# How long a process may take to end by itself when it is told to end now.
_GRACE_S = 2.0

_Answer: TypeAlias = Outcome | Exception


def default_jobs(cases: int) -> int:
    """Number of processes for a number of cases: one for each usable core, or two with a GPU."""
    jobs = _JOBS_ON_GPU if hardware()["gpus"] else usable_cores()
    return max(1, min(jobs, cases))


def share_threads(settings: Settings, jobs: int) -> Settings:
    """Give each of several processes its share of the usable cores, if no other number is given."""
    return replace(settings, threads=settings.threads or max(1, usable_cores() // jobs))


def run_local(
    settings: Settings,
    cases: Sequence[CohortCase],
    stop: threading.Event,
    jobs: int | None = None,
) -> Iterator[Outcome]:
    """Segment cases with several processes of this machine.

    A process that dies is replaced, and its case tried again, until it has taken
    `cnnres_infer.cohort.claims.MOST_ATTEMPTS` with it.

    Parameters
    ----------
    settings, cases
        What to segment, and how.
    stop
        Once set, the cases in hand are finished and no others begun.
    jobs
        Number of processes; see `default_jobs`.

    Yields
    ------
    Outcome
        What has become of each case, as it comes.

    Raises
    ------
    CnnresError
        If the model cannot be loaded.
    """
    jobs = jobs or default_jobs(len(cases))
    pool = _Pool(share_threads(settings, jobs), cases, stop)
    servers = [threading.Thread(target=pool.serve, daemon=True) for _ in range(jobs)]
    for each in servers:
        each.start()
    try:
        for _ in servers:
            while (answer := pool.answers.get()) is not None:
                if isinstance(answer, Exception):
                    raise answer
                yield answer
    finally:
        # Whoever stops asking, or fails, does not want the rest.
        pool.end()
        for each in servers:
            each.join()


class _Pool:
    """What the threads share that serve one process each."""

    def __init__(
        self, settings: Settings, cases: Sequence[CohortCase], stop: threading.Event
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._lock = threading.Lock()
        self._waiting: deque[tuple[float, CohortCase]] = deque((0.0, case) for case in cases)
        self._workers: set[_Worker] = set()
        self._ended = threading.Event()
        self.answers: queue.Queue[_Answer | None] = queue.Queue()

    def serve(self) -> None:
        """Have a process segment one case after another until none is left."""
        worker: _Worker | None = None
        lost = 0
        try:
            while (case := self._next()) is not None:
                worker = worker or self._start()
                answer = worker.ask(case)
                if answer is None:
                    # Whoever claims the case next counts how many it has ended.
                    lost = 0 if worker.is_loaded else lost + 1
                    worker.end()
                    worker = None
                    if lost >= _MOST_STARTS:
                        raise EngineRunError(
                            f"{lost} processes were killed while they loaded the model; give them "
                            "more memory, or use fewer `jobs`"
                        )
                    self._put_back(case, 0.0)
                elif isinstance(answer, Outcome) and answer.status is Status.BUSY:
                    self._put_back(case, time.monotonic() + _BUSY_PAUSE_S)
                else:
                    self.answers.put(answer)
        except Exception as error:
            self.answers.put(error)
        finally:
            if worker is not None:
                worker.end()
            self.answers.put(None)

    def end(self) -> None:
        """End all processes now, whatever they have in hand."""
        with self._lock:
            self._ended.set()
            workers = list(self._workers)
        for each in workers:
            each.close()
        end = time.monotonic() + _GRACE_S
        for each in workers:
            each.kill_at(end)

    def _start(self) -> "_Worker":
        worker = _Worker(self._settings)
        with self._lock:
            self._workers.add(worker)
            if self._ended.is_set():
                worker.close()
        return worker

    def _next(self) -> CohortCase | None:
        """The next case; None if there is none or no more are to begin."""
        while not (self._stop.is_set() or self._ended.is_set()):
            with self._lock:
                if not self._waiting:
                    return None
                not_before, case = self._waiting[0]
                pause = not_before - time.monotonic()
                if pause <= 0:
                    self._waiting.popleft()
                    return case
            self._stop.wait(pause)
        return None

    def _put_back(self, case: CohortCase, not_before: float) -> None:
        with self._lock:
            self._waiting.append((not_before, case))


class _Worker:
    """A process that runs `cnnres_infer.cohort.worker`."""

    def __init__(self, settings: Settings) -> None:
        command = [sys.executable, "-m", "cnnres_infer.cohort.worker"]
        # Where this package was found, the other process finds it too.
        path = os.pathsep.join(each for each in sys.path if each)
        # Threads that wait busily for one another would take cores from the other processes.
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONPATH": path}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._settings = settings
        self.is_loaded = False
        self._send(settings)

    def ask(self, case: CohortCase) -> _Answer | None:
        """Have a case segmented; None if the process died of it."""
        timeout = self._settings.limits.timeout
        timer = None
        if timeout is not None:
            # Loading the model may take as long as a case.
            allowed = (1 if self.is_loaded else 2) * timeout + _NOTICE_S
            timer = threading.Timer(allowed, self._process.kill)
            timer.daemon = True
            timer.start()
        started = time.monotonic()
        self._send(case)
        answer = self._receive()
        if timer is not None:
            timer.cancel()
            elapsed = time.monotonic() - started
            if answer is None and elapsed >= allowed:
                return fail(case, self._settings, too_long(elapsed, timeout or 0.0))
        return answer

    def end(self) -> None:
        """Wait for the process to end, which it does without cases."""
        self._send(None)
        self.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def close(self) -> None:
        """Ask for nothing more; a process that has not been sent None by then ends at once."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def kill_at(self, end: float) -> None:
        """Kill the process if it has not ended by a time of the monotonic clock."""
        try:
            self._process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _send(self, message: Any) -> None:
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(line(message))
            self._process.stdin.flush()
        except (OSError, ValueError):
            # It has died, which is noticed when its answer is missing.
            return

    def _receive(self) -> _Answer | None:
        assert self._process.stdout is not None
        try:
            content = json.loads(self._process.stdout.readline())
            if content == LOADED:
                self.is_loaded = True
                content = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            # Nothing, or only a part of a line: it has died.
            return None
        return answer_of(content)
