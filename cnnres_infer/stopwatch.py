"""Where the time goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds of named stages; an inner stage's time counts for it alone.

    Attributes
    ----------
    seconds
        Seconds spent in each stage so far.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage."""
        before, self._inner = self._inner, 0.0
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent - self._inner
            self._inner = before + spent
