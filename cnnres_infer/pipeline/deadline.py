"""Timing of stages, their progress, and the time limit."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from cnnres_infer.host.deadline import check_time, time_limit

# Told the stage, the completed steps of it, and how many there are.
Progress: TypeAlias = Callable[[str, int, int], None]


class Stopwatch:
    """Measures the time spent in named stages, and enforces a time limit.

    Stages may be nested; the time of an inner stage does not count towards the
    outer one.

    Parameters
    ----------
    timeout
        Seconds after which no further stage may begin, and stages that ask
        `cnnres_infer.host.deadline` end; None for no limit.
    progress
        Told when a stage begins and ends, and by `tell` in between.

    Attributes
    ----------
    seconds
        Seconds spent in each stage so far.
    """

    def __init__(self, timeout: float | None = None, progress: Progress | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._timeout = timeout
        self._progress = progress
        self._started = time.perf_counter()
        self._inner_seconds = 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage of a single step.

        Raises
        ------
        LimitError
            If the time limit was exceeded before the stage began.
        CancelledError
            If the work was cancelled before.
        """
        self.tell(stage, 0, 1)
        with self.part(stage):
            yield
        self.tell(stage, 1, 1)

    def tell(self, stage: str, done: int, total: int) -> None:
        """Report that so many steps of a stage are done."""
        if self._progress is not None:
            self._progress(stage, done, total)

    @contextmanager
    def part(self, stage: str) -> Iterator[None]:
        """Time a part of a stage, whose progress is reported by `tell`; raises as `__call__`."""
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
