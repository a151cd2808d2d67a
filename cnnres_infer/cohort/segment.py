"""One case of a cohort: recalled, claimed, segmented and written, or recorded as failed."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cnnres_infer.codes import ErrorCode
from cnnres_infer.cohort.case import CohortCase
from cnnres_infer.cohort.claims import MOST_ATTEMPTS, Claim, Claims, ExhaustedError
from cnnres_infer.cohort.derivative import Paths, read_sidecar, render
from cnnres_infer.cohort.markers import STATE, Fingerprint, Records, fingerprint
from cnnres_infer.cohort.settings import Settings
from cnnres_infer.core.case import Modality
from cnnres_infer.core.failure import Failure
from cnnres_infer.core.jsonable import to_json
from cnnres_infer.errors import CnnresError, OutputExistsError, ProcessLostError
from cnnres_infer.host.atomic import unfinished, write_all
from cnnres_infer.host.deadline import time_limit
from cnnres_infer.predictor import Predictor


class Status(StrEnum):
    """What has become of a case."""

    DONE = "done"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    FAILED_BEFORE = "failed before"
    BUSY = "busy"


@dataclass(frozen=True)
class Outcome:
    """What has become of a case.

    Attributes
    ----------
    name
        Name of the case.
    status
        What has become of it; `Status.BUSY` if another process has it in hand.
    error
        The error of a failed case, as in reports.
    volume_ml, lesions, warnings
        What was found in a segmented one.
    seconds
        Time that segmenting took; None if it was not segmented now.
    traceback
        Where the error was raised, if it was now.
    """

    name: str
    status: Status
    error: dict[str, Any] | None = None
    volume_ml: float | None = None
    lesions: int | None = None
    warnings: tuple[str, ...] = ()
    seconds: float | None = None
    traceback: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether the case lacks the mask that was asked for."""
        return self.error is not None

    @property
    def is_outdated(self) -> bool:
        """Whether there is a mask, but not known to be of these inputs and options."""
        return self.error is not None and self.error["code"] == ErrorCode.OUTPUT_EXISTS

    def to_json(self) -> dict[str, Any]:
        """The outcome without its traceback."""
        return {name: to_json(value) for name, value in vars(self).items() if name != "traceback"}


def recall(case: CohortCase, settings: Settings) -> Outcome | None:
    """What an earlier run, or another process, made of a case; None if it is to be segmented.

    A mask of other inputs or options is a failure, unless it may be overwritten.
    """
    for modality, paths in Paths.all_of(case, settings.out).items():
        if not paths.mask.exists():
            continue
        content = read_sidecar(paths.sidecar)
        made_from = fingerprint(content)
        if made_from is None:
            origin = "without a record of what it was made from"
        elif modality is not case.modality:
            origin = f"made from a {modality.upper()}"
        else:
            origin = made_from.difference(case, settings.options)
            if not origin:
                return _done(case, content, Status.UNCHANGED)
        if settings.overwrite:
            return None
        return _failed(case, Failure.of(OutputExistsError(paths.mask, origin)))
    content = Records(settings.out).read(case.name)
    made_from = fingerprint(content)
    if made_from is not None and made_from.describes(case, settings.options):
        return Outcome(case.name, Status.FAILED_BEFORE, content.get("error"))
    return None


def segment(case: CohortCase, settings: Settings, predictor: Callable[[], Predictor]) -> Outcome:
    """Segment a case, unless that was done before or another process is doing it.

    Parameters
    ----------
    case, settings
        What to segment, and how.
    predictor
        Gives the loaded model.

    Raises
    ------
    CnnresError
        If the model cannot be loaded, which no case is to blame for.
    """
    known = recall(case, settings)
    if known is not None:
        return known
    model = predictor()
    try:
        claim = Claims(settings.out / STATE / "claims", settings.lease).take(case.name)
    except ExhaustedError:
        return _give_up(case, settings)
    except Exception as error:
        return _failed(case, _failure(case, error))
    if claim is None:
        return Outcome(case.name, Status.BUSY)
    with claim:
        # Whoever had it may have finished just before it was claimed.
        return recall(case, settings) or _work(case, settings, model, claim)


def fail(case: CohortCase, settings: Settings, error: Exception) -> Outcome:
    """Record a case as failed, and forget what processes have tried."""
    outcome = _record(case, settings, _failure(case, error))
    with suppress(OSError):
        Claims(settings.out / STATE / "claims", settings.lease).forget(case.name)
    return outcome


def _give_up(case: CohortCase, settings: Settings) -> Outcome:
    error = ProcessLostError(
        f"{case.volume}: each of {MOST_ATTEMPTS} processes that segmented it was killed; give it "
        "more memory or time, or take it out, and try it again with `retry=True`"
    )
    return fail(case, settings, error)


def _work(case: CohortCase, settings: Settings, predictor: Predictor, claim: Claim) -> Outcome:
    made_from = None
    try:
        with time_limit(settings.limits.timeout):
            made_from = Fingerprint.of(case, settings.options)
            content = _segment(case, settings, predictor, claim, made_from)
        return _done(case, content, Status.DONE)
    except Exception as error:
        return _record(case, settings, _failure(case, error), made_from)


def _segment(
    case: CohortCase,
    settings: Settings,
    predictor: Predictor,
    claim: Claim,
    made_from: Fingerprint,
) -> dict[str, Any]:
    """Segment a case and write its outputs; returns what its sidecar says."""
    # A table may list FLAIRs besides DWIs.
    bvalue = settings.bvalue if case.modality is Modality.DWI else None
    result = case.job(bvalue=bvalue).predict(predictor, case.volume)
    paths = Paths.of(case, settings.out)
    contents = render(
        case,
        result,
        paths,
        made_from,
        probabilities=settings.probabilities,
        overlay=settings.overlay,
    )
    if not claim.is_held:
        raise OutputExistsError(paths.mask)
    for hidden in unfinished(contents):
        hidden.unlink(missing_ok=True)
    # Whatever else there is of the case is replaced, or was left by a killed process; but what was
    # made from the other modality only if this one has no mask to replace.
    every = [paths] if paths.mask.exists() else Paths.all_of(case, settings.out).values()
    former = [path for each in every for path in vars(each).values()]
    write_all(contents, overwrite=True, former=former)
    Records(settings.out).forget(case.name)
    return read_sidecar(paths.sidecar)


def _done(case: CohortCase, content: dict[str, Any], status: Status) -> Outcome:
    report = content.get("report", {})
    lesions = report.get("lesions", {})
    timings = report.get("timings_s", {})
    return Outcome(
        case.name,
        status,
        volume_ml=lesions.get("volume_ml"),
        lesions=lesions.get("count"),
        warnings=tuple(each["code"] for each in report.get("warnings", ())),
        seconds=sum(timings.values()) if status is Status.DONE else None,
    )


def _record(
    case: CohortCase, settings: Settings, failure: Failure, made_from: Fingerprint | None = None
) -> Outcome:
    """Record a failure where later runs find it, if anything can be written there."""
    with suppress(Exception):
        made_from = made_from or Fingerprint.of(case, settings.options)
    with suppress(CnnresError):
        Records(settings.out).fail(case, _public(case, failure), made_from)
    return _failed(case, failure)


def _failed(case: CohortCase, failure: Failure) -> Outcome:
    return Outcome(case.name, Status.FAILED, failure.to_json(), traceback=failure.traceback)


def _failure(case: CohortCase, error: Exception) -> Failure:
    return case.job().refuse(case.volume, error).error


def _public(case: CohortCase, failure: Failure) -> dict[str, Any]:
    """The error without folders, which often name people."""
    message = failure.message
    for path in case.inputs.values():
        message = message.replace(str(path), path.name)
    return {**failure.to_json(), "message": message}
