"""Threads that start together."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
# No test waits that long unless it fails.
PATIENCE_S = 60


def in_threads(count: int, work: Callable[[int], T]) -> list[T]:
    """Results of as many threads, which start together."""
    start = threading.Barrier(count, timeout=PATIENCE_S)

    def begin(index: int) -> T:
        start.wait()
        return work(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))
