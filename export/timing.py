"""Timing several things side by side."""

import statistics
import time
from collections.abc import Callable, Mapping


def median_seconds(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Time each case once per round, and take the median of its rounds.

    The cases take turns, so that a machine that slows down for a while slows all
    of them alike. A warm-up round before the others is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    for _ in range(rounds):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) for name, each in seconds.items()}
