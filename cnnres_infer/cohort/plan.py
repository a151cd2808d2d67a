"""What a run would do: the cases to segment, and what is known of the others."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

from cnnres_infer.cohort.case import CohortCase, Found, Skip, label
from cnnres_infer.cohort.claims import Claims
from cnnres_infer.cohort.markers import STATE, Records
from cnnres_infer.cohort.segment import Outcome, Status, recall
from cnnres_infer.cohort.settings import Settings
from cnnres_infer.errors import UsageError


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes
    ----------
    to_do
        The cases to segment.
    known
        What is known of cases that need not be, or must not be, segmented.
    skipped
        Scans that are left out, and why.
    """

    to_do: tuple[CohortCase, ...]
    known: tuple[Outcome, ...]
    skipped: tuple[Skip, ...]

    @classmethod
    def make(cls, found: Found, settings: Settings, *, retry: bool = False) -> Self:
        """Look up on disk what is known of each case.

        Parameters
        ----------
        found, settings
            The cases, and how they are to be segmented.
        retry
            Whether cases that failed before are tried again.
        """
        to_do, known = [], []
        for case in found.cases:
            outcome = recall(case, settings)
            if outcome is None or (retry and outcome.status is Status.FAILED_BEFORE):
                to_do.append(case)
            else:
                known.append(outcome)
        return cls(tuple(to_do), tuple(known), found.skipped)

    def to_json(self) -> dict[str, Any]:
        """The plan with the names of files alone, by what would be done."""
        return {
            "to_do": [
                {
                    "name": case.name,
                    "inputs": {role: path.name for role, path in case.inputs.items()},
                    "notes": case.notes,
                }
                for case in self.to_do
            ],
            "known": self.known,
            "skipped": self.skipped,
        }


def forget_failures(cases: Sequence[CohortCase], settings: Settings) -> None:
    """Remove the records of cases that failed, and of the processes that they ended."""
    records, claims = Records(settings.out), Claims(settings.out / STATE / "claims")
    for case in cases:
        if records.read(case.name).get("status") == "failed":
            records.forget(case.name)
            claims.forget(case.name)


def record_skips(found: Found, settings: Settings) -> None:
    """Record what is left out, and forget what was before and no longer is.

    What this input, or the part of it that was asked for, does not have keeps its record.
    """
    records = Records(settings.out)
    skipped = {skip.name for skip in found.skipped}
    seen = skipped | {case.name for case in found.cases}
    # A session that was skipped may have several cases by now, each with more in its name.
    starts = {start for name in seen for start in accumulate(name.split("_"), "{}_{}".format)}
    for name, record in records:
        if record.get("status") == "skipped" and name not in skipped and starts & _cases_of(name):
            records.forget(name)
    for skip in found.skipped:
        records.skip(skip)


def _cases_of(skipped: str) -> set[str]:
    """What the names of its cases would begin with, by the name of a skipped scan."""
    names = {skipped}
    with suppress(UsageError):
        names.add(f"sub-{label(skipped.partition('.')[0], 'sub-')}")
    return names


def share_of(found: Found, shard: str) -> Found:
    """Keep one of several equal shares of the cases.

    Parameters
    ----------
    found
        All cases.
    shard
        ``i/n``: the i-th of n shares, from 1 on.

    Raises
    ------
    UsageError
        If it is not of that form.
    """
    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal()) or not 1 <= int(index) <= int(count):
        raise UsageError(f"`shard` is {shard!r}; give i/n with i from 1 to n, such as 1/4")
    return Found(found.cases[int(index) - 1 :: int(count)], found.skipped, found.root)
