"""A cohort from its input to the tables."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.cohort.bids import is_bids
from cnnres_infer.cohort.case import CohortCase, Found
from cnnres_infer.cohort.claims import Claims
from cnnres_infer.cohort.derivative import REBUILT, check_dataset, describe_dataset, name_models
from cnnres_infer.cohort.index_page import index_page
from cnnres_infer.cohort.markers import STATE
from cnnres_infer.cohort.plan import Plan, forget_failures, record_skips
from cnnres_infer.cohort.segment import Outcome
from cnnres_infer.cohort.settings import Settings
from cnnres_infer.cohort.tables import read_entries, table_files
from cnnres_infer.core.case import Modality, check_combination
from cnnres_infer.errors import UsageError
from cnnres_infer.host.atomic import write_all

# Segments cases, until it is told to stop: processes, Dask or Slurm.
Runner: TypeAlias = Callable[[Settings, Sequence[CohortCase], threading.Event], Iterator[Outcome]]

_TABLES, _STAMP = "tables", "tables-made"


def check_input(source: Path, settings: Settings, bundle: Bundle, modality: Modality) -> None:
    """Check that a cohort can be run, before anything is looked for.

    Raises
    ------
    UsageError
        If the output is the input or another dataset, or one of the folders lies
        in the other; if files of the user would be replaced, the model does not
        take the modality, or a b-value is asked for in FLAIRs.
    """
    out, given = settings.out.resolve(), source.resolve()
    if out == given:
        raise UsageError(f"{settings.out}: is the input; give another folder for the outputs")
    if given in [out / name for name in REBUILT]:
        raise UsageError(f"{source}: would be replaced by an output; give it another name")
    # Of a BIDS dataset, only the folders of its participants are read, never its derivatives.
    if given.is_dir() and not is_bids(given):
        if out.is_relative_to(given):
            raise UsageError(
                f"{settings.out}: lies in the input, where outputs would be taken for cases; "
                "choose another"
            )
        if given.is_relative_to(out):
            raise UsageError(f"{settings.out}: the input lies in it; choose another")
    check_dataset(settings.out)
    bundle.spec.check_modalities(modality, False)
    asked = settings.bvalue is not None
    check_combination(modality, flair=False, adc=False, b0=False, b_value=asked)


def run_cohort(
    found: Found,
    plan: Plan,
    settings: Settings,
    runner: Runner,
    stop: threading.Event,
) -> Iterator[Outcome]:
    """Segment what is planned, and bring the tables up to date.

    Parameters
    ----------
    found, plan
        The cases, and what is to be done.
    settings
        The model, and how to run it; `Settings.pinned`.
    runner
        What segments the cases.
    stop
        Once set, the cases in hand are finished and no others begun.

    Yields
    ------
    Outcome
        Of cases that need not be segmented first, then of the others as they come.
    """
    describe_dataset(settings.out, found.root)
    record_skips(found, settings)
    forget_failures(plan.to_do, settings)
    try:
        yield from plan.known
        if plan.to_do:
            with closing(runner(settings, plan.to_do, stop)) as outcomes:  # type: ignore[type-var]
                yield from outcomes
    finally:
        rebuild(settings.out, settings.lease)


def rebuild(out: Path, lease: float) -> None:
    """Make the tables and the index from what is on disk, one process at a time.

    Of many processes that end together, one does it for all: those that waited for
    it need not, if it began after they had finished.

    Parameters
    ----------
    out
        The output folder.
    lease
        See `Settings`.
    """
    claims, stamp = Claims(out / STATE / "claims", lease), out / STATE / _STAMP
    finished = claims.now()
    with claims.held(_TABLES):
        if stamp.exists() and stamp.stat().st_mtime > finished:
            return
        begun = claims.now()
        entries = read_entries(out)
        files = {**table_files(entries), "index.html": index_page(out, entries)}
        for name, content in files.items():
            write_all({out / name: content}, overwrite=True)
        name_models(out, [entry.made_by for entry in entries if entry.made_by])
        # Only now, since a process that is killed before has made nothing.
        stamp.touch()
        os.utime(stamp, (begun, begun))
