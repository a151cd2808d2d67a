"""Timing of stages, and the time limit."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import LimitError


class Stopwatch:
    """Measures the time spent in named stages, and enforces a time limit.

    Stages may be nested; the time of an inner stage does not count towards the
    outer one.

    Parameters
    ----------
    timeout
        Seconds after which no further stage may begin; None for no limit.

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
        self._check_timeout()
        siblings, self._inner_seconds = self._inner_seconds, 0.0
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            own = elapsed - self._inner_seconds
            self.seconds[stage] = self.seconds.get(stage, 0.0) + own
            self._inner_seconds = siblings + elapsed

    def _check_timeout(self) -> None:
        elapsed = time.perf_counter() - self._started
        if self._timeout is not None and elapsed > self._timeout:
            raise LimitError(
                f"stopped after {elapsed:.1f} s, more than `timeout` ({self._timeout:g} s); "
                "increase it",
                code=ErrorCode.LIMIT_TIME,
            )
