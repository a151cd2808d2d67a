"""Keeping numpy's matrix products on one thread while an engine computes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOCK = threading.Lock()
_users = 0
_limit: Any = None


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
        if not _users:
            from threadpoolctl import ThreadpoolController

            _limit = ThreadpoolController().select(internal_api="openblas").limit(limits=1)
        _users += 1
    try:
        yield
    finally:
        with _LOCK:
            _users -= 1
            if not _users:
                _limit.restore_original_limits()
                _limit = None
