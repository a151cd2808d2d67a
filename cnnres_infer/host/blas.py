"""Limiting NumPy's matrix products to one thread while an engine is running."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from typing import Any

_lock = threading.Lock()
_users = 0
_limit: "_Limit | None" = None


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Limit NumPy's matrix products to one thread inside the context.

    The products in resampling are small; the other BLAS threads would spin
    while waiting for more work, and take cores away from the engine. The limit
    is process-wide, so overlapping contexts share it: the first to be entered
    sets it, and the last to be left restores the previous setting.

    A process forked inside a context starts out with the limit in place, and
    only the contexts that it enters itself count.
    """
    global _users, _limit
    with _lock:
        limit = _limit = _limit or _Limit.hold()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            # False in a process that was forked since.
            if limit is _limit:
                _users -= 1
                if not _users:
                    _limit = None
                    limit.end()


def _reset_after_fork() -> None:
    """Forget the limit, whose thread a forked process does not have, and its users."""
    global _lock, _users, _limit
    _lock, _users, _limit = threading.Lock(), 0, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


class _Limit(threading.Thread):
    """A thread that limits OpenBLAS to one thread until `end` is called.

    Since version 3.8, threadpoolctl lets only one thread control OpenBLAS and
    silently ignores all others. The last context to be left is often on another
    thread than the first to be entered, so the limit needs its own thread.
    """

    def __init__(self) -> None:
        super().__init__(name="single BLAS thread", daemon=True)
        self._ready: Future[None] = Future()
        self._over = threading.Event()

    @classmethod
    def hold(cls) -> "_Limit":
        """Set the limit; `end` restores the previous setting."""
        limit = cls()
        limit.start()
        try:
            limit._ready.result()
        except BaseException:
            limit._over.set()
            raise
        return limit

    def end(self) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        try:
            limit = _limit_openblas()
        except BaseException as error:
            self._ready.set_exception(error)
            return
        with limit:
            self._ready.set_result(None)
            self._over.wait()


@cache
def _openblas() -> Any:
    """Find NumPy's OpenBLAS, once: to look through all libraries of a process takes about 1 ms."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(internal_api="openblas")


def _limit_openblas() -> Any:
    """Set the limit; the returned context manager restores the previous setting."""
    from threadpoolctl import OpenBLASController

    openblas = _openblas()
    limit = openblas.limit(limits=1)
    take_control = getattr(OpenBLASController, "clear_controlling_thread", None)
    if take_control is not None and any(each["num_threads"] != 1 for each in openblas.info()):
        # One of the caller's threads has set a limit and kept control. Threads that share a
        # predictor are 50 times slower if their small products wait for the BLAS threads.
        take_control(force=True)
        limit = openblas.limit(limits=1)
    return limit
