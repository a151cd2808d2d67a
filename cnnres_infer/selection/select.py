"""Selecting the backend and precision to run, and recording why others were skipped."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.codes import Notice, WarningCode
from cnnres_infer.core.grouping import group_names
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import Skipped, Verification
from cnnres_infer.engines import AUTO, BACKENDS, probe
from cnnres_infer.engines.base import Engine
from cnnres_infer.errors import (
    BackendUnavailableError,
    EngineError,
    EngineRunError,
    PrecisionUnavailableError,
    UsageError,
    VerificationError,
)
from cnnres_infer.host.deadline import check_time
from cnnres_infer.selection.autotune import fastest_first
from cnnres_infer.selection.offers import offers, open_engine
from cnnres_infer.verification.self_check import self_check

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """The selected engine.

    Attributes
    ----------
    engine
        The open engine.
    verification
        The evidence that its output matches the network's; None if unchecked.
    skipped
        Preferred backends and precisions that were skipped, with the reasons.
    reselect
        Selects again, excluding the backends in `failed`; None if no other backend
        may take over.
    """

    engine: Engine
    verification: Verification | None = None
    skipped: tuple[Skipped, ...] = ()
    reselect: "Callable[..., Selection] | None" = None

    def next(self, failure: EngineRunError) -> "Selection":
        """Open the next backend's engine after this one has failed.

        Parameters
        ----------
        failure
            The error that this engine failed with.

        Returns
        -------
        Selection
            The next engine, with this one added to the skipped ones.

        Raises
        ------
        EngineRunError
            If no other backend may take over, or none can.
        BundleError
            If a file of the bundle can no longer be trusted.
        """
        if self.reselect is None:
            raise failure
        info = self.engine.describe()
        failed = Skipped(info.backend, info.precision, str(failure), expected=True)
        try:
            return self.reselect(failed=(*self.skipped, failed))
        except (EngineError, VerificationError) as error:
            raise EngineRunError(str(error), code=failure.code) from failure

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """Warnings to report with the results of this engine."""
        warnings = [
            Notice(
                WarningCode.BACKEND_PASSED,
                f"{each.backend} {each.precision} should run here but was skipped: " + each.reason,
            )
            for each in self.skipped
            if each.expected
        ]
        if self.verification is not None and self.verification.unsaved:
            text = "the engine's self-check could not be saved, so every run repeats it: "
            warnings.append(Notice(WarningCode.CHECK_UNSAVED, text + self.verification.unsaved))
        own = self.engine.describe().warnings
        return (*warnings, *(Notice(WarningCode.ENGINE, text) for text in own))


def select(
    bundle: Bundle,
    name: str = AUTO,
    precision: str = AUTO,
    threads: int | None = None,
    *,
    check: bool = True,
    strict: bool = False,
    failed: tuple[Skipped, ...] = (),
) -> Selection:
    """Open the first engine that works.

    Backends are tried in the order of their table, and the precisions of each
    from fastest to slowest.

    Parameters
    ----------
    bundle
        The bundle to run.
    name, precision
        The only backend and precision to try; ``"auto"`` tries all of them.
    threads
        Number of threads; by default one per usable core.
    check
        Whether an engine must pass its self-check to be selected.
    strict
        Whether to fail instead of skipping an engine that should run here.
    failed
        Engines that have failed; their backends are not tried again.

    Returns
    -------
    Selection
        The open engine, which the caller closes, and what was skipped.

    Raises
    ------
    UsageError
        If the backend or precision does not exist.
    BundleError
        If a file of the bundle cannot be trusted.
    BackendUnavailableError
        If no requested backend and precision can run.
    VerificationError
        If an engine could run, but disagrees with the network.
    EngineRunError
        If the only engine to try, or with `strict` one that should run, fails.
    """
    if precision not in (AUTO, *Precision):
        raise UsageError(
            f"precision {precision!r} does not exist; choose from {', '.join((AUTO, *Precision))}"
        )
    skipped = list(failed)
    errors: list[Exception] = []
    reselect = None
    if name == AUTO and not strict:
        reselect = partial(select, bundle, name, precision, threads, check=check)
    for each in _backends(name, failed):
        check_time()
        try:
            probe(each).require()
        except BackendUnavailableError as error:
            skipped.append(Skipped(each, precision, str(error), expected=False))
            errors.append(error)
            continue
        for wanted in _precisions(bundle, each, precision, threads):
            try:
                engine, verification = _open(bundle, each, wanted, threads, check)
                _record(engine, verification, skipped)
                return Selection(engine, verification, tuple(skipped), reselect)
            except (EngineError, VerificationError) as error:
                lacking = isinstance(error, PrecisionUnavailableError)
                expected = wanted in offers(bundle, each) and not lacking
                if strict and expected:
                    raise
                skipped.append(Skipped(each, wanted, str(error), expected))
                errors.append(error)
    if name != AUTO and len(errors) == 1:
        raise errors[0]
    disagrees = any(isinstance(error, VerificationError) for error in errors)
    raise (VerificationError if disagrees else BackendUnavailableError)(
        f"no backend can be used: {_reasons(skipped)}"
    )


def _record(engine: Engine, verification: Verification | None, skipped: list[Skipped]) -> None:
    """Log what was selected and skipped, without reasons: these may hold paths."""
    for each in skipped:
        level = logging.WARNING if each.expected else logging.DEBUG
        _log.log(level, "skipped %s %s", each.backend, each.precision)
    info = engine.describe()
    checked = "not checked" if verification is None else "checked"
    if verification is not None and verification.cached:
        checked = "checked earlier"
    _log.info(
        "selected %s %s (%s, %d threads, %s)",
        info.backend,
        info.precision,
        info.provider,
        info.threads,
        checked,
    )


def _backends(name: str, failed: tuple[Skipped, ...]) -> tuple[str, ...]:
    tried = {each.backend for each in failed}
    return tuple(each for each in BACKENDS if each not in tried) if name == AUTO else (name,)


def _reasons(skipped: list[Skipped]) -> str:
    """List each reason once, after the backends and precisions that it applies to."""
    by_reason = group_names(
        (each.backend + (f" {each.precision}" if each.precision != AUTO else ""), each.reason)
        for each in skipped
    )
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def _precisions(bundle: Bundle, name: str, precision: str, threads: int | None) -> tuple[str, ...]:
    if precision != AUTO:
        return (precision,)
    return fastest_first(bundle, name, threads) or (AUTO,)


def _open(
    bundle: Bundle, name: str, precision: str, threads: int | None, check: bool
) -> tuple[Engine, Verification | None]:
    engine = open_engine(bundle, name, precision, threads)
    try:
        return engine, self_check(engine, bundle) if check else None
    except BaseException:
        engine.close()
        raise
