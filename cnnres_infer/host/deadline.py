"""What ends the work under way early: its time limit, or whoever no longer wants it.

Everything that may take or wait long asks `check_time` now and then.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import CancelledError, LimitError


@dataclass(frozen=True)
class _Deadline:
    started: float
    seconds: float


_deadline: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)
_cancels: ContextVar[tuple[Callable[[], bool], ...]] = ContextVar("cancels", default=())


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


@contextmanager
def cancellable(cancel: Callable[[], bool] | None) -> Iterator[None]:
    """Let what this thread does inside the context be cancelled.

    Parameters
    ----------
    cancel
        Asked by `check_time`, which raises once it answers True; None to leave
        that to the contexts around this one.
    """
    token = _cancels.set((*_cancels.get(), *([] if cancel is None else [cancel])))
    try:
        yield
    finally:
        _cancels.reset(token)


def check_time() -> None:
    """Go on only if there is time left, and nobody has cancelled the work under way.

    Raises
    ------
    CancelledError
        If it was cancelled.
    LimitError
        If its time limit is exceeded.
    """
    if any(cancel() for cancel in _cancels.get()):
        raise CancelledError("cancelled by the caller; nothing was written")
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
