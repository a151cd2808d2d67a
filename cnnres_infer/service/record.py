"""What is known of a case, as its ``record.json`` has it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes
    ----------
    status
        ``"done"`` or ``"failed"``.
    ended
        When, in seconds since 1970.
    computed_s
        Seconds that computing took, and writing.
    code, message
        Why it failed; None if it did not.
    outputs
        Names of the files that were written.
    lesions, volume_ml
        Number of lesions, and their volume.
    warnings
        Codes of the warnings.
    """

    status: str
    ended: float
    computed_s: float = 0.0
    code: str | None = None
    message: str | None = None
    outputs: tuple[str, ...] = ()
    lesions: int | None = None
    volume_ml: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """What is known of a claimed case; ``record.json``.

    Attributes
    ----------
    study
        Hashed identifier, the same for the same name in a work area.
    name
        Name of the file or folder in ``originals`` that is segmented.
    arrived, claimed
        When the last of it arrived and when it was claimed, in seconds since 1970.
    attempts
        How often it was tried to compute it.
    outcome
        What became of it; None before.
    """

    study: str
    name: str
    arrived: float
    claimed: float
    attempts: int = 0
    outcome: Outcome | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of the file, with times that can be read."""
        outcome = None
        if self.outcome is not None:
            outcome = {**vars(self.outcome), "ended": to_time(self.outcome.ended)}
        return {
            **vars(self),
            "arrived": to_time(self.arrived),
            "claimed": to_time(self.claimed),
            "outcome": outcome,
        }

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self:
        """The record in a file."""
        found = content["outcome"]
        outcome = None
        if found is not None:
            lists = {name: tuple(found[name]) for name in ("outputs", "warnings")}
            outcome = Outcome(**{**found, **lists, "ended": from_time(found["ended"])})
        times = {name: from_time(content[name]) for name in ("arrived", "claimed")}
        return cls(**{**content, **times, "outcome": outcome})


def to_time(seconds: float) -> str:
    """Seconds since 1970 as a time of UTC."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def from_time(text: str) -> float:
    """The inverse of `to_time`."""
    return datetime.fromisoformat(text).timestamp()
