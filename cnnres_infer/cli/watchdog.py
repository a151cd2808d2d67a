"""Ending the process when it exceeds a limit inside something that cannot be interrupted.

Most work asks whether its time is up, and is refused like any other. What a
runtime, a decompressor or a file system holds does not come back to ask, and no
thread can be stopped from outside in Python: then the process ends, after the
refusal was reported.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from cnnres_infer.cli.console import print_error, print_json
from cnnres_infer.cli.flags import with_flags
from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.failure import Failure
from cnnres_infer.errors import LimitError
from cnnres_infer.host.atomic import WRITING
from cnnres_infer.host.deadline import time_limit, too_long
from cnnres_infer.host.machine import resident_bytes
from cnnres_infer.limits import Limits, parse_size

# Reports the refusal of a volume, or of opening the model.
Report: TypeAlias = Callable[[Path | None, LimitError], None]

STATUS = LimitError.exit_status
# All within a second of the limit: how long work may take to notice it, a write to finish, and
# the report.
_NOTICE_S, _WRITE_S, _REPORT_S = 0.2, 0.2, 0.55
# A thread that takes Python's lock over and over gives it up after this long, not after the usual
# 5 ms. So does the report, which would get nowhere if this was much less.
_SWITCH_S = 1e-3
_MEMORY_INTERVAL_S = 0.05
# Timers of the system do not reach much further; nobody waits for eleven days.
_LONGEST_S = 1e6


class Watchdog:
    """Watches the time and memory of one piece of work after another.

    Parameters
    ----------
    limits
        The limits.
    report
        Called on a thread of its own before the process ends.
    """

    def __init__(self, limits: Limits, report: Report) -> None:
        self._limits = limits
        self._report = report
        self._change = threading.Condition()
        self._started: float | None = None
        self._subject: Path | None = None
        if limits.timeout is not None or limits.max_memory is not None:
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    @contextmanager
    def watch(self, subject: Path | None = None) -> Iterator[None]:
        """Watch what is done inside the context.

        Parameters
        ----------
        subject
            The volume; None while the model is opened.
        """
        with self._change:
            self._started, self._subject = time.monotonic(), subject
            self._change.notify()
        if self._limits.timeout is not None:
            _end_at_last(self._limits.timeout + _NOTICE_S + _WRITE_S + _REPORT_S)
        try:
            yield
        finally:
            # Waits for ever if the process is being ended.
            with self._change:
                self._started = None
                _end_at_last(0.0)

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._started is not None)
                error = self._exceeded()
                if error is None:
                    self._change.wait(self._pause())
                    continue
                if WRITING.acquire(blocking=False):
                    self._end(error)
            # Outputs are being written: once they are, the volume is done.
            if WRITING.acquire(timeout=_WRITE_S):
                WRITING.release()
                time.sleep(_MEMORY_INTERVAL_S)
            with self._change:
                if self._started is not None and self._exceeded() is not None:
                    self._end(error)

    def _exceeded(self) -> LimitError | None:
        timeout, most = self._limits.timeout, self._limits.max_memory
        elapsed = time.monotonic() - (self._started or 0.0)
        if timeout is not None and elapsed > timeout + _NOTICE_S:
            return too_long(elapsed, timeout)
        if most is not None and (used := resident_bytes()) > most:
            return LimitError(
                f"uses {used} bytes of memory, more than `max_memory={most}`: raise the limit, "
                "or choose another `backend`",
                code=ErrorCode.LIMIT_MEMORY,
            )
        return None

    def _pause(self) -> float:
        """Seconds until the limits are to be looked at again."""
        if self._limits.max_memory is not None:
            return _MEMORY_INTERVAL_S
        elapsed = time.monotonic() - (self._started or 0.0)
        left = (self._limits.timeout or 0.0) + _NOTICE_S - elapsed
        return min(max(left, 0.01), _LONGEST_S)

    def _end(self, error: LimitError) -> None:
        # Whatever the report waits for, such as a reader of standard error.
        _end_at_last(_REPORT_S + _WRITE_S)
        timer = threading.Timer(_REPORT_S, os._exit, (STATUS,))
        timer.daemon = True
        sys.setswitchinterval(_SWITCH_S)
        timer.start()
        try:
            self._report(self._subject, error)
        finally:
            os._exit(STATUS)


@contextmanager
def watched(
    max_memory: str | None, timeout: float | None, as_json: bool, verbose: bool
) -> Iterator[Limits]:
    """Hold the whole work of a command to its limits.

    Parameters
    ----------
    max_memory, timeout
        The limits, as given to the command.
    as_json, verbose
        How it reports the error that it ends with.

    Yields
    ------
    Limits
        The limits, for whatever checks them itself.
    """

    def ended(_: Path | None, error: LimitError) -> None:
        failure = Failure.of(error, with_flags)
        print_error(failure, verbose)
        if as_json:
            print_json({"status": "failed", "error": failure})

    memory = None if max_memory is None else parse_size(max_memory)
    limits = Limits(max_memory=memory, timeout=timeout)
    with Watchdog(limits, ended).watch(), time_limit(timeout):
        yield limits


def _end_at_last(seconds: float) -> None:
    """Have the system kill the process, should its threads not even run; 0 to call that off."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds if seconds < _LONGEST_S else 0.0)
