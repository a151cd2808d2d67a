"""Computes claimed cases with one model, each once."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from cnnres_infer.batch import CaseReport, Job
from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.failure import Failure
from cnnres_infer.errors import CnnresError, InputError, OutputExistsError
from cnnres_infer.host.atomic import exclusive
from cnnres_infer.host.durable import sync_files
from cnnres_infer.outputs.save import make_room, plan
from cnnres_infer.outputs.writers import WRITERS
from cnnres_infer.outputs.writers.report import Refusal
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers import case_name, reader_of
from cnnres_infer.service.health import Health, LogLine
from cnnres_infer.service.record import Outcome, Record
from cnnres_infer.service.retry_queue import RetryQueue
from cnnres_infer.service.state import ClaimedCase, WorkArea

# Written of DICOM input besides the usual outputs.
_DICOM_FORMATS = ("dicom-seg", "dicom-sr", "dicom-sc")
# A case that ends the process each time must not do so for ever.
MOST_ATTEMPTS = 5


def formats_for(path: Path, job: Job) -> tuple[str, ...]:
    """Outputs of a case by default: those of the command line, and as DICOM what came as DICOM."""
    if reader_of(path) != "dicom":
        return job.formats
    return (*job.formats, *(each for each in _DICOM_FORMATS if each in WRITERS))


class Worker:
    """Computes cases and moves them to ``done`` or ``failed``.

    Parameters
    ----------
    area
        The work area.
    predictor
        The model.
    job
        Where outputs go, and how they are made.
    health
        Told of each case.
    queue
        Where results are to be pushed from; None without.
    named_formats
        Whether `job` has the formats that were asked for, and DICOM adds none.
    watch
        Gives a context in which each case is computed.
    """

    def __init__(
        self,
        area: WorkArea,
        predictor: Predictor,
        job: Job,
        health: Health,
        queue: RetryQueue | None = None,
        *,
        named_formats: bool = False,
        watch: Callable[[Path], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self._area = area
        self._predictor = predictor
        self._job = job
        self._health = health
        self._queue = queue
        self._named_formats = named_formats
        self._watch = watch
        self._current: ClaimedCase | None = None

    def refusal(self, path: Path) -> Failure | None:
        """Why a case must not be claimed: its outputs exist and may not be replaced."""
        if self._job.overwrite:
            return None
        try:
            make_room(self._out, case_name(path), tuple(WRITERS), overwrite=False)
        except OutputExistsError as error:
            return Failure.of(error, self._job.wording)
        except CnnresError:
            # Said of the case when it is computed.
            return None
        return None

    def fail(self, case: ClaimedCase, failure: Failure) -> None:
        """Give up a case."""
        self._conclude(_with_outcome(case, _failed(failure)))

    def process(self, case: ClaimedCase) -> None:
        """Compute a case, or go on with one that an earlier process left behind."""
        if case.record.outcome is None:
            case = self._compute(case)
        self._conclude(case)

    def abandon(self, path: Path | None, error: CnnresError) -> None:
        """Fail the case under way, since the process has to end."""
        case = self._current
        if case is not None and path is not None:
            self.fail(case, Failure.of(error, self._job.wording))

    @property
    def _out(self) -> Path:
        assert self._job.out is not None
        return self._job.out

    def _compute(self, case: ClaimedCase) -> ClaimedCase:
        record = case.record
        if record.attempts >= MOST_ATTEMPTS:
            return _with_outcome(case, _failed(Failure.of(_ended(record))))
        case = case.write(replace(record, attempts=record.attempts + 1))
        self._current = case
        try:
            return _with_outcome(case, self._outcome(case))
        finally:
            self._current = None

    def _outcome(self, case: ClaimedCase) -> Outcome:
        path, started = case.path, time.monotonic()
        again = case.record.attempts > 1
        formats = self._job.formats if self._named_formats else formats_for(path, self._job)
        # When it was claimed, it had no outputs: what exists now is of an attempt at it.
        job = replace(self._job, formats=formats, overwrite=self._job.overwrite or again)
        if again and not self._job.overwrite and (outputs := _complete(self._out, path, formats)):
            return _found(outputs)
        (entry,) = job.run(self._predictor, [path], self._watch)
        spent = round(time.monotonic() - started, 3)
        if isinstance(entry, Refusal):
            return replace(_failed(entry.error), computed_s=spent)
        sync_files(entry.outputs)
        return _computed(entry, spent)

    def _conclude(self, case: ClaimedCase) -> None:
        """Push, log and move a case; each is done once, however often this is begun."""
        outcome = case.record.outcome
        assert outcome is not None
        if self._queue is not None:
            self._queue.add_all([self._out / name for name in outcome.outputs], case.record.study)
        self._health.observe(LogLine.of(case.record))
        self._area.finish(case)


def _with_outcome(case: ClaimedCase, outcome: Outcome) -> ClaimedCase:
    return case.write(replace(case.record, outcome=outcome))


def _failed(failure: Failure) -> Outcome:
    return Outcome("failed", time.time(), code=failure.code, message=failure.message)


def _computed(entry: CaseReport, spent: float) -> Outcome:
    report = entry.report
    return Outcome(
        "done",
        time.time(),
        spent,
        outputs=tuple(path.name for path in entry.outputs),
        lesions=len(report.lesions),
        volume_ml=round(report.volume_ml, 3),
        warnings=tuple(warning.code for warning in report.warnings),
    )


def _found(outputs: Mapping[str, Path]) -> Outcome:
    """The outcome of a case whose outputs were written just before the process ended."""
    paths = tuple(outputs.values())
    with exclusive(paths[0].parent, paths):
        # On leaving, it removes what the killed process had not named yet.
        sync_files(paths)
    done = Outcome("done", time.time(), outputs=tuple(path.name for path in paths))
    if "report" not in outputs:
        return done
    report = json.loads(outputs["report"].read_bytes())
    return replace(
        done,
        computed_s=round(sum(report["timings_s"].values()), 3),
        lesions=report["lesions"]["count"],
        volume_ml=round(report["lesions"]["volume_ml"], 3),
        warnings=tuple(warning["code"] for warning in report["warnings"]),
    )


def _ended(record: Record) -> InputError:
    return InputError(
        f"{record.name}: the process ended {record.attempts} times while this case was computed; "
        "compute it alone to see why, and then move it back to try again",
        code=ErrorCode.SERVICE_ENDED,
    )


def _complete(out: Path, path: Path, formats: tuple[str, ...]) -> Mapping[str, Path]:
    """The outputs of a case if all are written, which the last one tells; none otherwise."""
    outputs = plan(out, case_name(path), formats)
    existing = {name: each for name, each in outputs.items() if each.exists()}
    return existing if list(outputs)[-1] in existing else {}
