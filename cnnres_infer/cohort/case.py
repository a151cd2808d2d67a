"""What a cohort consists of: cases to segment, and scans that are left out."""

import re
from dataclasses import dataclass
from pathlib import Path

from cnnres_infer.batch import Job
from cnnres_infer.core.case import Modality
from cnnres_infer.errors import UsageError

_LABEL = re.compile(r"[^0-9A-Za-z]+")


@dataclass(frozen=True)
class CohortCase:
    """One scan to segment, with what belongs to it.

    Attributes
    ----------
    participant, session
        BIDS labels, alphanumeric; the session is empty if there is none.
    volume
        NIfTI file, or DICOM study.
    modality
        What `volume` is.
    flair, adc, b0, brain_mask
        What belongs to it; None without.
    entities
        Further entities of the output's name, such as ``("acq-dti", "run-1")``.
    sources
        Paths relative to the root of a BIDS dataset, for ``Sources``; empty otherwise.
    notes
        What whoever looks at the case should know about how it was put together.
    """

    participant: str
    session: str
    volume: Path
    modality: Modality = Modality.DWI
    flair: Path | None = None
    adc: Path | None = None
    b0: Path | None = None
    brain_mask: Path | None = None
    entities: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the case, unique in its cohort: ``sub-X[_ses-Y][_acq-Z]...``."""
        return "_".join((*self.folders, *self.entities))

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders of the case in a BIDS dataset: ``sub-X`` and, if there is one, ``ses-Y``."""
        session = (f"ses-{self.session}",) if self.session else ()
        return (f"sub-{self.participant}", *session)

    @property
    def inputs(self) -> dict[str, Path]:
        """All images by their role."""
        paths = {
            str(self.modality): self.volume,
            "flair": self.flair,
            "adc": self.adc,
            "b0": self.b0,
            "brain mask": self.brain_mask,
        }
        # The FLAIR that is segmented itself has none beside it.
        named = [(role, path) for role, path in paths.items() if path is not None]
        return {str(self.modality): self.volume, **dict(named)}

    def job(self, **options: object) -> Job:
        """What the batch of a single call would be for this case."""
        beside = {role: getattr(self, role) for role in ("flair", "adc", "b0", "brain_mask")}
        return Job(modality=str(self.modality), **beside, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Skip:
    """A scan of the input that is not segmented.

    Attributes
    ----------
    name
        Name of the case that it would have been.
    reason
        Why not.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """What an input holds.

    Attributes
    ----------
    cases
        The cases, ordered by name.
    skipped
        What is left out, and why.
    root
        Root of the BIDS dataset; None if the input is none.
    """

    cases: tuple[CohortCase, ...]
    skipped: tuple[Skip, ...] = ()
    root: Path | None = None

    @classmethod
    def of(cls, cases: list[CohortCase], skipped: list[Skip], root: Path | None = None) -> "Found":
        """Put cases in order, and check that each has a name of its own.

        Raises
        ------
        UsageError
            If two would write to the same files.
        """
        by_name: dict[str, CohortCase] = {}
        for case in cases:
            # Some file systems take names for one that differ in case alone.
            other = by_name.setdefault(case.name.lower(), case)
            if other is not case:
                raise UsageError(
                    f"{other.volume} and {case.volume} would both be {case.name}; give a table "
                    "with a column participant_id that tells them apart"
                )
        ordered = sorted(cases, key=lambda each: each.name)
        return cls(tuple(ordered), tuple(sorted(skipped, key=lambda each: each.name)), root)


def label(text: str, prefix: str = "") -> str:
    """Turn any name into a BIDS label, which is alphanumeric.

    Parameters
    ----------
    text
        The name.
    prefix
        What it may start with and the label does not, such as ``sub-``.

    Raises
    ------
    UsageError
        If nothing is left of it.
    """
    cleaned = _LABEL.sub("", text.removeprefix(prefix))
    if not cleaned:
        raise UsageError(f"{text!r} has no letters or digits to make a BIDS label of; rename it")
    return cleaned


def check_labels(source: Path, what: str, asked: set[str], there: set[str]) -> None:
    """Check that an input has all participants or sessions that were asked for.

    Raises
    ------
    UsageError
        If it has not.
    """
    if missing := sorted(asked - there):
        raise UsageError(f"{source}: has no {what} {', '.join(missing)}; check the label")
