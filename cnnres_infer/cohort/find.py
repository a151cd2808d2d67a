"""Finding the cases of whatever is given as input."""

from collections.abc import Sequence
from pathlib import Path

from cnnres_infer.cohort.bids import find_bids, is_bids
from cnnres_infer.cohort.case import CohortCase, Found, Skip, check_labels, label
from cnnres_infer.cohort.folder import find_folder
from cnnres_infer.cohort.table import SUFFIXES, find_table
from cnnres_infer.core.case import Modality
from cnnres_infer.errors import UsageError
from cnnres_infer.readers import case_name


def find_cases(
    source: Path,
    modality: Modality = Modality.DWI,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    *,
    with_flair: bool = True,
) -> Found:
    """Find the cases of an input.

    Parameters
    ----------
    source
        A BIDS dataset, a table (CSV, TSV), a folder of NIfTI files or DICOM
        studies, or a single one of these.
    modality
        What to segment.
    participants, sessions
        Labels of a BIDS dataset or table; empty for all.
    with_flair
        Whether the FLAIR of a DWI is wanted.

    Raises
    ------
    UsageError
        If the input does not exist, holds no case, or not those asked for, or cases
        would share a name.
    """
    if source.is_dir() and is_bids(source):
        return _some(
            source, find_bids(source, modality, participants, sessions, with_flair=with_flair)
        )
    if source.suffix.lower() in SUFFIXES:
        found = find_table(source, modality, with_flair=with_flair)
    elif source.is_dir():
        found = find_folder(source, modality, with_flair=with_flair)
    elif source.exists():
        found = Found.of([CohortCase(label(case_name(source), "sub-"), "", source, modality)], [])
    else:
        raise UsageError(f"{source}: does not exist; give a BIDS dataset, a folder or a table")
    wanted = {each.removeprefix("sub-") for each in participants}
    wanted_sessions = {each.removeprefix("ses-") for each in sessions}
    labels = {each: (each.participant, each.session) for each in found.cases}
    left_out = {each: _labels(each) for each in found.skipped}
    there = [*labels.values(), *left_out.values()]
    check_labels(source, "participant", wanted, {participant for participant, _ in there})
    check_labels(source, "session", wanted_sessions, {session for _, session in there})

    def is_wanted(participant: str, session: str) -> bool:
        return (not wanted or participant in wanted) and (
            not wanted_sessions or session in wanted_sessions
        )

    kept = [each for each, named in labels.items() if is_wanted(*named)]
    return _some(source, Found.of(kept, [each for each in left_out if is_wanted(*left_out[each])]))


def _labels(skip: Skip) -> tuple[str, str]:
    """Participant and session of a scan that is left out, by its name."""
    entities = dict(part.partition("-")[::2] for part in skip.name.split("_"))
    return entities.get("sub", skip.name), entities.get("ses", "")


def _some(source: Path, found: Found) -> Found:
    if not found.cases and not found.skipped:
        raise UsageError(f"{source}: no images were found; check the path and the labels")
    return found
