"""The time limit of the work under way, for everything that may take or wait long."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import LimitError


@dataclass(frozen=True)
class _Deadline:
    started: float
    seconds: float


_deadline: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def time_limit(seconds: float | None, started: float | None = None) -> Iterator[None]:
    """Limit the time of what this thread does inside the context.

    Inside another limit, the one that ends first holds.

    Parameters
    ----------
    seconds
        Seconds after which `check_time` raises; None for no limit.
    started
        When they began, as `time.perf_counter` tells it; by default now.
    """
    outer, now = _deadline.get(), time.perf_counter()
    own = None if seconds is None else _Deadline(now if started is None else started, seconds)
    both = [each for each in (outer, own) if each is not None]
    token = _deadline.set(min(both, key=lambda each: each.started + each.seconds, default=None))
    try:
        yield
    finally:
        _deadline.reset(token)


def check_time() -> None:
    """Raise `LimitError` if the time limit of the work under way is exceeded."""
    deadline = _deadline.get()
    if deadline is None:
        return
    elapsed = time.perf_counter() - deadline.started
    if elapsed > deadline.seconds:
        raise too_long(elapsed, deadline.seconds)


def too_long(elapsed: float, seconds: float) -> LimitError:
    """The error of work that has taken longer than its limit.

    Parameters
    ----------
    elapsed, seconds
        Time taken and allowed, in seconds.
    """
    return LimitError(
        f"stopped after {elapsed:.1f} s, more than `timeout` ({seconds:g} s); increase it",
        code=ErrorCode.LIMIT_TIME,
    )
