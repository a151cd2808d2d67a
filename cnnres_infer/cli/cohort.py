"""``cnnres-infer cohort``."""

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnres_infer.cli.console import (
    attempt,
    exit_status,
    print_json,
    printing,
    progress,
    stdout,
    warn,
)
from cnnres_infer.cli.flags import with_flags
from cnnres_infer.cli.options import (
    BackendOption,
    BundleOption,
    BValueOption,
    JsonOption,
    PrecisionOption,
    QuietOption,
    SelfCheckOption,
    SignatureOption,
    StrictOption,
    VerboseOption,
)
from cnnres_infer.core.text import counted, printable
from cnnres_infer.errors import UsageError
from cnnres_infer.limits import Limits, parse_size

if TYPE_CHECKING:
    from cnnres_infer.cohort.plan import Plan
    from cnnres_infer.cohort.run import Runner
    from cnnres_infer.cohort.segment import Outcome


def cohort(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="BIDS dataset, folder of NIfTI files or DICOM studies, or table of paths "
            "(.csv, .tsv).",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the BIDS derivative.")],
    participants: Annotated[
        list[str] | None,
        typer.Option("--participant-label", metavar="LABEL", help="Only these; may be repeated."),
    ] = None,
    sessions: Annotated[
        list[str] | None,
        typer.Option("--session-label", metavar="LABEL", help="Only these; may be repeated."),
    ] = None,
    modality: Annotated[str, typer.Option(help="What to segment: dwi or flair.")] = "dwi",
    bvalue: BValueOption = None,
    prob: Annotated[bool, typer.Option("--prob", help="Also write probability maps.")] = False,
    overlay: Annotated[bool, typer.Option(help="Write overlay images.")] = True,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace masks of other inputs, bundles or options."),
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try cases again that failed before.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be done, and why cases are skipped.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes, or jobs with --slurm; defaults to one per usable core."
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only the I-th of N shares, for an array of jobs."),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Dask scheduler, such as tcp://host:8786, or local."),
    ] = None,
    slurm: Annotated[
        str | None,
        typer.Option(metavar="PARTITION", help="Submit an array of Slurm jobs to this partition."),
    ] = None,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of each process; defaults to cores / processes."),
    ] = None,
    self_check: SelfCheckOption = True,
    strict_backend: StrictOption = False,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory that each process may use, such as 2G."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Time limit for each case.")
    ] = None,
    require_signature: SignatureOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Segment a whole cohort, and list all lesions in tables and on a page."""
    outcomes: list[Outcome] = []
    planned: list[Plan] = []

    def work() -> None:
        from cnnres_infer.bundle.bundle import Bundle
        from cnnres_infer.cohort.find import find_cases
        from cnnres_infer.cohort.plan import Plan, share_of
        from cnnres_infer.cohort.run import check_input, run_cohort
        from cnnres_infer.cohort.settings import Settings
        from cnnres_infer.core.case import Modality

        opened = Bundle.open(bundle, require_signature)
        memory = None if max_memory is None else parse_size(max_memory)
        settings = Settings(
            out=out,
            backend=backend,
            precision=precision,
            threads=threads,
            self_check=self_check,
            strict_backend=strict_backend,
            limits=Limits(max_memory=memory, timeout=timeout),
            trusted_key=require_signature,
            bvalue=bvalue,
            probabilities=prob,
            overlay=overlay,
            overwrite=overwrite,
        ).pinned(opened)
        kind = Modality.parse(modality)
        check_input(source, settings, opened, kind)
        runner = _runner(jobs, dask, slurm)
        found = find_cases(
            source.absolute(),
            kind,
            participants or (),
            sessions or (),
            with_flair=Modality.FLAIR in opened.spec.modalities,
        )
        if shard is not None:
            found = share_of(found, shard)
        plan = Plan.make(found, settings, retry=retry)
        if dry_run:
            planned.append(replace(plan, known=tuple(map(_worded, plan.known))))
            return
        planned.append(plan)
        with _ends_after_cases(quiet or as_json) as stop:
            reports = run_cohort(found, plan, settings, runner, stop)
            clock = _Clock(case.name for case in plan.to_do)
            for outcome in progress(map(_worded, reports), len(found.cases), quiet or as_json):
                outcomes.append(outcome)
                clock.count(outcome)
                _print_outcome(outcome, clock, quiet or as_json, verbose)

    failure = attempt(work, verbose)
    if as_json:
        plan = planned[0] if planned else None
        print_json(_report(plan, outcomes, failure, dry_run))
    elif planned and dry_run:
        _print_plan(planned[0])
    elif planned and failure is None and not quiet:
        _print_summary(planned[0], outcomes, out)
    failed = next((each.error for each in outcomes if each.error), None)
    status = exit_status(failure)
    left = planned and not dry_run and _count_left(planned[0], outcomes)
    raise typer.Exit(status or (failed["exit_status"] if failed else 130 if left else 0))


def _runner(jobs: int | None, dask: str | None, slurm: str | None) -> "Runner":
    """What segments the cases."""
    from functools import partial

    if dask is not None and slurm is not None:
        raise UsageError("--dask and --slurm are alternatives; give one of them")
    if dask is not None:
        from cnnres_infer.cohort.dask import run_dask

        return partial(run_dask, scheduler=dask, jobs=jobs)
    if slurm is not None:
        from cnnres_infer.cohort.slurm import run_slurm

        return partial(run_slurm, partition=slurm, jobs=jobs)
    from cnnres_infer.cohort.local import run_local

    return partial(run_local, jobs=jobs)


@contextmanager
def _ends_after_cases(silent: bool) -> Iterator[threading.Event]:
    """Let the first Ctrl-C end the run after the cases in hand; the second one ends it now."""
    stop = threading.Event()
    former = signal.getsignal(signal.SIGINT)

    def interrupted(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, former)
        if not silent:
            warn("cnnres-infer: finishing the cases in hand; press Ctrl-C again to end now")

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, former)


class _Clock:
    """Estimates the time left.

    Parameters
    ----------
    names
        The cases to segment.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._total, self._done = len(self._names), 0
        self._started = time.monotonic()

    def counts(self, outcome: "Outcome") -> bool:
        """Whether a case is one of those to segment, and was not known before."""
        return outcome.name in self._names

    def count(self, outcome: "Outcome") -> None:
        """Count a case, unless it was known before."""
        self._done += self.counts(outcome)

    def __str__(self) -> str:
        if not self._done:
            return f"0/{self._total}"
        left = (time.monotonic() - self._started) / self._done * (self._total - self._done)
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{self._done}/{self._total}, {hours:d}:{minutes:02d}:{seconds:02d} left"


def _worded(outcome: "Outcome") -> "Outcome":
    """The outcome with arguments named as on the command line."""
    if outcome.error is None:
        return outcome
    return replace(
        outcome, error={**outcome.error, "message": with_flags(outcome.error["message"])}
    )


def _print_outcome(outcome: "Outcome", clock: _Clock, silent: bool, verbose: bool) -> None:
    if outcome.error is not None:
        for line in outcome.traceback.splitlines() if verbose else ():
            warn(line)
        message = f"{outcome.error['code']}: {outcome.name}: {outcome.error['message']}"
        warn(f"cnnres-infer: {message}")
    if not silent and clock.counts(outcome):
        with printing():
            name = printable(outcome.name)
            stdout().print(f"[{clock}] {name}: {_in_short(outcome)}", markup=False)


def _in_short(outcome: "Outcome") -> str:
    """What has become of a case that was to be segmented."""
    if outcome.error is not None:
        return f"failed, {outcome.error['code']}"
    found = f"{counted(outcome.lesions or 0, 'lesion')}, {outcome.volume_ml or 0.0:.2f} ml"
    by = "another process" if outcome.seconds is None else f"{outcome.seconds:.2f} s"
    return ", ".join((f"{found} ({by})", *outcome.warnings))


def _print_plan(plan: "Plan") -> None:
    console = stdout()
    with printing():
        for case in plan.to_do:
            files = ", ".join(f"{role} {path.name}" for role, path in case.inputs.items())
            console.print(printable(f"segment  {case.name}: {files}"), markup=False)
            for note in case.notes:
                console.print(printable(f"         {note}"), markup=False)
        for outcome in plan.known:
            reason = f": {outcome.error['message']}" if outcome.error else ""
            console.print(printable(f"{outcome.status}  {outcome.name}{reason}"), markup=False)
        for skip in plan.skipped:
            console.print(printable(f"skip  {skip.name}: {skip.reason}"), markup=False)
        console.print(
            f"{len(plan.to_do)} to segment, {len(plan.known)} known, {len(plan.skipped)} skipped"
        )


def _print_summary(plan: "Plan", outcomes: "list[Outcome]", out: Path) -> None:
    outdated = sum(outcome.is_outdated for outcome in outcomes)
    failed = sum(outcome.is_failure for outcome in outcomes) - outdated
    new = sum(outcome.seconds is not None for outcome in outcomes)
    left = _count_left(plan, outcomes)
    unchanged = len(outcomes) - new - failed - outdated
    text = (
        f"{new} segmented, {unchanged} unchanged, "
        + (f"{outdated} kept (not known to be of these inputs and settings), " if outdated else "")
        + f"{failed} failed, {len(plan.skipped)} skipped"
        + (f", {left} left" if left else "")
    )
    with printing():
        stdout().print(f"{text}; see {printable(str(out / 'index.html'))}", markup=False)


def _count_left(plan: "Plan", outcomes: "list[Outcome]") -> int:
    return len(plan.to_do) + len(plan.known) - len(outcomes)


def _report(
    plan: "Plan | None", outcomes: "list[Outcome]", failure: Any, dry_run: bool
) -> dict[str, Any]:
    if failure is not None:
        return {"status": "failed", "error": failure, "cases": outcomes}
    if dry_run:
        return {"status": "planned", "plan": plan}
    left = _count_left(plan, outcomes) if plan else 0
    failed = any(each.is_failure for each in outcomes)
    return {
        "status": "failed" if failed else "interrupted" if left else "done",
        "cases": outcomes,
        "left": left,
        "skipped": plan.skipped if plan else (),
    }
