"""Where the time goes, and when there is none left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import LimitError


class Stopwatch:
    """Adds up the seconds of named stages; an inner stage's time counts for it alone.

    Parameters
    ----------
    timeout
        Seconds after which no further stage begins; None for no limit.

    Attributes
    ----------
    seconds
        Seconds spent in each stage so far.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._timeout = timeout
        self._begun = time.perf_counter()
        self._inner = 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage.

        Raises
        ------
        LimitError
            If the time was up before it began.
        """
        self._check()
        before, self._inner = self._inner, 0.0
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent - self._inner
            self._inner = before + spent

    def _check(self) -> None:
        spent = time.perf_counter() - self._begun
        if self._timeout is not None and spent > self._timeout:
            raise LimitError(
                f"stopped after {spent:.1f} s, more than `timeout={self._timeout:g}`",
                code=ErrorCode.LIMIT_TIME,
            )
