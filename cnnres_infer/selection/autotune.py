"""Which precision of a backend is fastest on this machine: measured once, then cached.

Whether INT8 beats float16 or bfloat16 depends on the processor, on the
runtime's kernels and on how much of the network the INT8 file leaves in float,
so no precision is assumed to be fast.
"""

import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from cnnres_infer import __version__
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import backend, probe
from cnnres_infer.engines.base import bounds
from cnnres_infer.errors import EngineError
from cnnres_infer.host.machine import usable_cores
from cnnres_infer.host.result_cache import ResultCache
from cnnres_infer.selection.offers import offers, open_engine

FOLDER = "speeds"
_SECONDS_EACH = 1.0
_LEAST_RUNS = 3
# How much faster one has to be to run instead of the one that the backend prefers: timings of
# the same engine differ by a few percent.
_MARGIN = 1.05
_SPEEDS = ResultCache(FOLDER)


def fastest_first(bundle: Bundle, name: str, threads: int | None = None) -> tuple[Precision, ...]:
    """The precisions that a backend offers with a bundle, the preferred one first.

    The order is the backend's own, except that its rivals (see
    `cnnres_infer.engines.base.Engine`) are sorted by speed, those that do not
    run last. The first of them stays so unless another is clearly faster.

    Parameters
    ----------
    threads
        Threads to compute with; by default one for each usable core.
    """
    offered = tuple(offers(bundle, name))
    rivals = backend(name).RIVALS
    contenders = [precision for precision in offered if precision in rivals]
    if len(contenders) < 2:
        return offered
    seconds = measured(bundle, name, contenders, threads)
    seconds |= {precision: _MARGIN * seconds[precision] for precision in contenders[1:]}
    by_speed = iter(sorted(contenders, key=lambda precision: seconds[precision]))
    return tuple(next(by_speed) if each in contenders else each for each in offered)


def measured(
    bundle: Bundle, name: str, contenders: list[Precision], threads: int | None
) -> dict[Precision, float]:
    """Seconds per slice, from the cache if they were measured under the same conditions before.

    Those that the machine lacks or that fail take infinitely long. That is remembered too:
    building an engine again at every start, to see it fail, could take minutes.
    """
    cores = threads or usable_cores()
    conditions = [__version__, bundle.digest, name, contenders, cores, asdict(probe(name))]
    if earlier := _seconds(_SPEEDS.get(conditions), contenders):
        return earlier
    seconds = dict.fromkeys(contenders, np.inf)
    for precision in contenders:
        # The reason is reported when the engine is opened for use.
        with suppress(EngineError):
            seconds[precision] = _time(bundle, name, precision, threads)
    # If all fail, the machine may be at fault, and recover.
    if any(map(np.isfinite, seconds.values())):
        # JSON has no infinity. If the cache cannot be written, the next start measures again.
        finite = {p: spent if np.isfinite(spent) else None for p, spent in seconds.items()}
        _SPEEDS.put(conditions, finite)
    return seconds


def _time(bundle: Bundle, name: str, precision: Precision, threads: int | None) -> float:
    """Seconds per slice, as the median of several runs of a full batch."""
    spec = bundle.spec
    with open_engine(bundle, name, precision, threads) as engine:
        side = bounds(spec.slices.sides)[1]
        # A GPU takes less power for zeros, and so may run faster than with a volume.
        shape = (engine.BATCH, spec.channels, side, side)
        images = np.random.default_rng(0).random(shape, np.float32)
        engine.run(images)
        spent: list[float] = []
        while len(spent) < _LEAST_RUNS or sum(spent) < _SECONDS_EACH:
            started = time.perf_counter()
            engine.run(images)
            spent.append(time.perf_counter() - started)
    return float(np.median(spent)) / len(images)


def _seconds(value: Any, contenders: list[Precision]) -> dict[Precision, float]:
    """An earlier measurement from the cache; empty if it is missing or damaged."""
    try:
        known = {precision: value[precision] for precision in contenders}
        return {p: np.inf if spent is None else float(spent) for p, spent in known.items()}
    except (KeyError, TypeError, ValueError):
        return {}
