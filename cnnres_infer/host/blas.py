"""Keeping numpy's matrix products on one thread while an engine computes."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

_LOCK = threading.Lock()
_users = 0
_limit: "_Limit | None" = None


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Keep numpy's matrix products on one thread for a while.

    Those of resampling are small; BLAS's other threads would wait for more by
    spinning, and take the cores from the engine. The setting is the process's,
    so calls that overlap share it: the first one sets it, and the last one to
    end puts back what was there before.
    """
    global _users, _limit
    with _LOCK:
        limit = _limit = _limit or _Limit.hold()
        _users += 1
    try:
        yield
    finally:
        with _LOCK:
            _users -= 1
            if not _users:
                _limit = None
                limit.end()


class _Limit(threading.Thread):
    """Limits OpenBLAS to one thread for as long as it is held.

    From 3.8 on, threadpoolctl lets only one thread control OpenBLAS and ignores
    all others without a word. The call that ends last often runs on another
    thread than the one that began first, so a thread of its own has to do it.
    """

    def __init__(self) -> None:
        super().__init__(name="single BLAS thread", daemon=True)
        self._ready: Future[None] = Future()
        self._over = threading.Event()

    @classmethod
    def hold(cls) -> "_Limit":
        """Set the limit; `end` puts back what was there before."""
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


def _limit_openblas() -> Any:
    """Set the limit; the returned context manager puts back what was there before."""
    from threadpoolctl import OpenBLASController, ThreadpoolController

    openblas = ThreadpoolController().select(internal_api="openblas")
    limit = openblas.limit(limits=1)
    take_control = getattr(OpenBLASController, "clear_controlling_thread", None)
    if take_control is not None and any(each["num_threads"] != 1 for each in openblas.info()):
        # A thread of the caller's has set a limit before and kept control. Threads that share
        # a predictor are 50 times slower if their small products wait for BLAS's threads.
        take_control(force=True)
        limit = openblas.limit(limits=1)
    return limit
