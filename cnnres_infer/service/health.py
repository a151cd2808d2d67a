"""The log, with one line for each study, and the figures for Prometheus."""

import json
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cnnres_infer.errors import UsageError
from cnnres_infer.host.atomic import write_all
from cnnres_infer.host.durable import append_durably
from cnnres_infer.service.record import Record, from_time, to_time
from cnnres_infer.service.state import LOG, METRICS

# Percentiles are of the last cases, so that they tell how it goes now.
_LAST = 1000
_QUANTILES = (0.5, 0.9, 0.99)
# What a file with figures starts with.
_HEAD = "# HELP cnnres_infer_"


@dataclass(frozen=True)
class LogLine:
    """A line of the log: a case without any name.

    Attributes
    ----------
    study
        Hashed identifier.
    status
        ``"done"`` or ``"failed"``.
    code
        Why it failed; None if it did not.
    arrived, claimed, ended
        Seconds since 1970.
    computed_s
        Seconds that computing took.
    attempts
        How often it was tried.
    lesions, volume_ml, warnings
        What was found.
    """

    study: str
    status: str
    code: str | None
    arrived: float
    claimed: float
    ended: float
    computed_s: float
    attempts: int
    lesions: int | None
    volume_ml: float | None
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, record: Record) -> Self:
        """The line of a case with an outcome."""
        outcome = record.outcome
        assert outcome is not None
        return cls(
            record.study,
            outcome.status,
            outcome.code,
            record.arrived,
            record.claimed,
            outcome.ended,
            outcome.computed_s,
            record.attempts,
            outcome.lesions,
            outcome.volume_ml,
            outcome.warnings,
        )

    @property
    def latency_s(self) -> float:
        """Seconds from the arrival of the last file to the result."""
        return max(self.ended - self.arrived, 0.0)

    def to_json(self) -> dict[str, Any]:
        """The line itself."""
        times = {name: to_time(getattr(self, name)) for name in ("arrived", "claimed", "ended")}
        return {**vars(self), **times, "latency_s": round(self.latency_s, 3)}

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The inverse; None for a line that is damaged."""
        try:
            content = json.loads(text)
            del content["latency_s"]
            times = {name: from_time(content[name]) for name in ("arrived", "claimed", "ended")}
            warnings = tuple(content["warnings"])
            return cls(**{**content, **times, "warnings": warnings})
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class Waiting:
    """What has not been computed yet.

    Attributes
    ----------
    arriving, working
        Number of cases that arrive or wait, and that are claimed.
    pushes
        Number of objects that are to be pushed.
    oldest
        When the oldest of the cases arrived, in seconds since 1970; None without any.
    """

    arriving: int
    working: int
    pushes: int
    oldest: float | None


class Health:
    """Keeps the log and the figures of a work area.

    Parameters
    ----------
    root
        The work area.
    metrics
        Where the figures go; by default a file in the area.
    """

    def __init__(self, root: Path, metrics: Path | None = None) -> None:
        self._log = root / LOG
        self._metrics = root / METRICS if metrics is None else metrics
        self._lock = threading.Lock()
        self._cases: Counter[str] = Counter()
        self._latencies: deque[float] = deque(maxlen=_LAST)
        self._computed: deque[float] = deque(maxlen=_LAST)
        self.events: Counter[str] = Counter()
        # Of the last lines alone: what a killed process has logged is among them.
        self._logged: deque[tuple[str, str]] = deque(maxlen=_LAST)
        for line in read_log(self._log):
            self._count(line)

    def observe(self, line: LogLine) -> None:
        """Log a case, unless that was done before the process ended."""
        with self._lock:
            if _identity(line) in self._logged:
                return
            append_durably(self._log, json.dumps(line.to_json()))
            self._count(line)

    def count(self, event: str) -> None:
        """Count something that happens to the service, such as an object that arrives."""
        with self._lock:
            self.events[event] += 1

    def publish(self, waiting: Waiting, now: float) -> None:
        """Write the figures."""
        with self._lock:
            text = "".join(f"{line}\n" for line in self._lines(waiting, now))
        write_all({self._metrics: text.encode()}, overwrite=True)
        # They are collected by another user, whatever the umask, and say nothing of patients.
        self._metrics.chmod(0o644)

    def _count(self, line: LogLine) -> None:
        self._logged.append(_identity(line))
        self._cases[line.status] += 1
        if line.status == "done":
            self._latencies.append(line.latency_s)
            self._computed.append(line.computed_s)

    def _lines(self, waiting: Waiting, now: float) -> Iterator[str]:
        cases = {f'status="{each}"': float(self._cases[each]) for each in ("done", "failed")}
        events = {f'event="{each}"': float(n) for each, n in sorted(self.events.items())}
        age = 0.0 if waiting.oldest is None else max(now - waiting.oldest, 0.0)
        yield from _metric("cases_total", "counter", "Cases that were computed or refused.", cases)
        yield from _metric("events_total", "counter", "What has happened since the start.", events)
        for name, text, values in (
            ("latency_seconds", "From the last file of a case to its result.", self._latencies),
            ("compute_seconds", "Computing a case and writing its outputs.", self._computed),
        ):
            yield from _metric(name, "gauge", f"{text} The last {_LAST} cases.", _spread(values))
        queue = {'state="arriving"': waiting.arriving, 'state="working"': waiting.working}
        yield from _metric("queue_length", "gauge", "Cases that are not computed yet.", queue)
        pushes = {"": waiting.pushes}
        yield from _metric("pushes_pending", "gauge", "Objects that are to be pushed.", pushes)
        yield from _metric("oldest_age_seconds", "gauge", "Age of the oldest case.", {"": age})
        yield from _metric("updated_seconds", "gauge", "When this was written.", {"": now})


def check_metrics(path: Path) -> None:
    """Raise if the figures would take the place of a file that has none.

    Raises
    ------
    UsageError
        If there is such a file.
    """
    with suppress(OSError):
        if (found := path.read_bytes()) and not found.startswith(_HEAD.encode()):
            raise UsageError(f"{path}: exists and has no figures of this service; choose another")


def read_log(path: Path) -> Iterator[LogLine]:
    """The lines of a log; damaged ones are skipped."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            if (line := LogLine.parse(text)) is not None:
                yield line


def percentiles(values: Iterable[float]) -> dict[float, float]:
    """Percentiles of some values, each a value itself; none without any."""
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {each: ordered[min(int(each * len(ordered)), last)] for each in _QUANTILES}


def _spread(values: Iterable[float]) -> dict[str, float]:
    return {f'quantile="{at}"': value for at, value in percentiles(values).items()}


def _metric(name: str, kind: str, text: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"{_HEAD}{name} {text}"
    name = f"cnnres_infer_{name}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values.items():
        yield f"{name}{{{labels}}} {value:.15g}" if labels else f"{name} {value:.15g}"


def _identity(line: LogLine) -> tuple[str, str]:
    """What tells a case from a later one of the same name, as the file has it."""
    return line.study, to_time(line.claimed)
