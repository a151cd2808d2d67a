"""What belongs to one patient's scan and is segmented together."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import UsageError


class Modality(StrEnum):
    """What a volume shows."""

    DWI = "dwi"
    FLAIR = "flair"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The modality of a name.

        Raises
        ------
        UsageError
            If there is none of that name.
        """
        if text not in list(cls):
            raise UsageError(f"modality {str(text)!r} is none of {', '.join(cls)}")
        return cls(text)


@dataclass(frozen=True, eq=False)
class Case:
    """The volumes that are segmented together.

    Attributes
    ----------
    modality
        What `volume` is.
    volume
        The volume on whose grid the mask will lie.
    flair
        The FLAIR to be merged with it, on any grid; None without one.
    brain_mask
        The brain on the grid of `volume`; None where it is to be found.

    Raises
    ------
    UsageError
        If the modality is unknown, or a FLAIR is given beside a FLAIR.
    """

    modality: Modality
    volume: Volume
    flair: Volume | None = None
    brain_mask: Volume | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "modality", Modality.parse(self.modality))
        if self.flair is not None and self.modality is Modality.FLAIR:
            raise UsageError("give the DWI first: two FLAIR volumes cannot be merged")

    @property
    def name(self) -> str:
        """What to call the case in messages and output names."""
        return self.volume.name

    @property
    def volumes(self) -> dict[str, Volume]:
        """Every volume by its part in the case: its modality, or ``"brain mask"``."""
        named = {str(self.modality): self.volume}
        if self.flair is not None:
            named[str(Modality.FLAIR)] = self.flair
        if self.brain_mask is not None:
            named["brain mask"] = self.brain_mask
        return named
