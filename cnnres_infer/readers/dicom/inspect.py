"""What a study holds and what would be chosen of it, without decoding any pixels."""

from dataclasses import dataclass
from pathlib import Path

from cnnres_infer.core.case import Modality
from cnnres_infer.core.failure import Failure
from cnnres_infer.errors import InputError
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.readers.dicom.choose import Chosen, choose
from cnnres_infer.readers.dicom.geometry import stack
from cnnres_infer.readers.dicom.series import Series
from cnnres_infer.readers.dicom.study import open_study
from cnnres_infer.readers.pick import EVERYTHING, Pick


@dataclass(frozen=True)
class SeriesReport:
    """A series.

    Attributes
    ----------
    number
        Its number; None without.
    uid
        Its UID.
    description
        Its description, or the name of its protocol.
    files, frames
        How many files and slices it has.
    what
        What it was taken for.
    why
        By which attributes.
    used_as
        What it would be used as; empty if it would not be used.
    """

    number: int | None
    uid: str
    description: str
    files: int
    frames: int
    what: str
    why: str
    used_as: tuple[str, ...]


@dataclass(frozen=True)
class StudyReport:
    """A study.

    Attributes
    ----------
    path
        The folder, archive or file.
    series
        Its series, in the order of their numbers.
    problems
        What is wrong with files that cannot be used.
    notes
        What would be left out, and why.
    error
        Why the study would be refused; None if it would not be.
    """

    path: Path
    series: tuple[SeriesReport, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    error: Failure | None


def inspect(
    path: Path,
    modality: Modality = Modality.DWI,
    limits: Limits = DEFAULT_LIMITS,
    pick: Pick = EVERYTHING,
) -> StudyReport:
    """Tell what a study holds, and what would be chosen of it.

    Parameters
    ----------
    path
        The folder, archive or file.
    modality
        What is to be segmented.
    limits
        The largest size of files.
    pick
        What the user decided.

    Raises
    ------
    InputError
        If there is no study.
    """
    with open_study(path, limits) as study:
        chosen, failure = None, None
        try:
            chosen = choose(study, modality, pick)
            stack(chosen.volume.frames, chosen.volume.text, single=chosen.volume.single)
        except InputError as error:
            failure = Failure.of(error)
        return StudyReport(
            path,
            tuple(_report(each, None if failure else chosen) for each in study.series),
            tuple(str(problem.error) for problem in study.problems),
            () if chosen is None else chosen.notes,
            failure,
        )


def _report(series: Series, chosen: Chosen | None) -> SeriesReport:
    roles = (
        {}
        if chosen is None
        else {
            "volume": chosen.volume,
            "FLAIR": chosen.flair,
            "ADC": chosen.adc,
            "b0": chosen.b0,
        }
    )
    used = tuple(role for role, each in roles.items() if each and each.series is series)
    return SeriesReport(
        series.image.number,
        series.image.series,
        series.image.description,
        len({frame.image.file for frame in series.frames}),
        len(series.frames),
        series.what,
        series.why,
        used,
    )
