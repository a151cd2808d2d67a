"""How a service is doing, read from its files alone."""

import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnres_infer.service.health import LogLine, percentiles, read_log
from cnnres_infer.service.hot_folder import HotFolder
from cnnres_infer.service.retry_queue import RetryQueue
from cnnres_infer.service.run import waiting
from cnnres_infer.service.state import LOG, is_running, read_area
from cnnres_infer.service.stuck import read_stuck

_LAST, _SHOWN = 1000, 5


@dataclass(frozen=True)
class StatusReport:
    """How a service is doing.

    Attributes
    ----------
    folder
        The work area.
    running
        Whether a process works there.
    arriving, working, done, failed
        Number of cases.
    pushes, pushed
        Number of objects that are to be pushed and that were.
    push_errors
        Why the last attempts to push failed.
    stuck
        Why cases cannot be taken from where they arrived.
    oldest_age_s
        Seconds since the oldest case that is not computed arrived; None without any.
    latency_s
        Percentiles of the seconds from the last file of a case to its result, of the last 1000.
    last_failed
        The last refusals in the log.
    """

    folder: Path
    running: bool
    arriving: int
    working: int
    done: int
    failed: int
    pushes: int
    pushed: int
    push_errors: tuple[str, ...]
    stuck: tuple[str, ...]
    oldest_age_s: float | None
    latency_s: dict[str, float]
    last_failed: tuple[LogLine, ...]

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        return dict(vars(self))


def read_status(folder: Path) -> StatusReport:
    """Read how the service in a folder is doing.

    Raises
    ------
    UsageError
        If no service has worked there.
    """
    area = read_area(folder)
    queue = RetryQueue(area.root)
    state = waiting(area, HotFolder(area.incoming, 0), queue)
    counts: Counter[str] = Counter()
    done: deque[float] = deque(maxlen=_LAST)
    failed: deque[LogLine] = deque(maxlen=_SHOWN)
    for line in read_log(area.root / LOG):
        counts[line.status] += 1
        if line.status == "done":
            done.append(line.latency_s)
        else:
            failed.append(line)
    age = None if state.oldest is None else round(max(time.time() - state.oldest, 0.0), 3)
    return StatusReport(
        folder=folder,
        running=is_running(area),
        arriving=state.arriving,
        working=state.working,
        done=counts["done"],
        failed=counts["failed"],
        pushes=state.pushes,
        pushed=queue.sent_count(),
        push_errors=tuple(sorted({push.error for push in queue.pending() if push.error})),
        stuck=read_stuck(area.root),
        oldest_age_s=age,
        latency_s={f"{at:g}": round(each, 3) for at, each in percentiles(done).items()},
        last_failed=tuple(failed),
    )
