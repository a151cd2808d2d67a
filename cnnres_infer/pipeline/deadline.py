"""Timing of stages, and the time limit."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cnnres_infer.host.deadline import check_time, time_limit


class Stopwatch:
    """Measures the time spent in named stages, and enforces a time limit.

    Stages may be nested; the time of an inner stage does not count towards the
    outer one.

    Parameters
    ----------
    timeout
        Seconds after which no further stage may begin, and stages that ask
        `cnnres_infer.host.deadline` end; None for no limit.

    Attributes
    ----------
    seconds
        Seconds spent in each stage so far.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._timeout = timeout
        self._started = time.perf_counter()
        self._inner_seconds = 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage.

        Raises
        ------
        LimitError
            If the time limit was exceeded before the stage began.
        """
        siblings, self._inner_seconds = self._inner_seconds, 0.0
        started = time.perf_counter()
        try:
            with time_limit(self._timeout, self._started):
                check_time()
                yield
        finally:
            elapsed = time.perf_counter() - started
            own = elapsed - self._inner_seconds
            self.seconds[stage] = self.seconds.get(stage, 0.0) + own
            self._inner_seconds = siblings + elapsed
