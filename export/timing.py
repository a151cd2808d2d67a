"""Timing side by side."""

import time
from collections.abc import Callable, Mapping


def interleaved(cases: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each case in each of several rounds, after one round that does not count.

    Rounds take the cases in turn, so that a machine that slows down for a
    while slows all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    for _ in range(runs):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - started)
    return seconds
