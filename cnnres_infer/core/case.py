"""The volumes of one patient that are segmented together."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import UsageError


class Modality(StrEnum):
    """The MRI contrast of a volume."""

    DWI = "dwi"
    FLAIR = "flair"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Look up a modality by name.

        Raises
        ------
        UsageError
            If no modality has that name.
        """
        if text not in list(cls):
            raise UsageError(f"unknown modality {str(text)!r}; choose from {', '.join(cls)}")
        return cls(text)


@dataclass(frozen=True, eq=False)
class Case:
    """The volumes of one patient that are segmented together.

    Attributes
    ----------
    modality
        The modality of `volume`.
    volume
        The volume that is segmented; the mask lies on its grid.
    flair
        A FLAIR of the same session, on any grid, to combine with a DWI; None
        if there is none.
    brain_mask
        A brain mask on the grid of `volume`; None to find the brain
        automatically.

    Raises
    ------
    UsageError
        If the modality is unknown, or a FLAIR is combined with a FLAIR.
    """

    modality: Modality
    volume: Volume
    flair: Volume | None = None
    brain_mask: Volume | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "modality", Modality.parse(self.modality))
        if self.flair is not None and self.modality is Modality.FLAIR:
            raise UsageError("two FLAIR volumes cannot be combined; give the DWI first")

    @property
    def name(self) -> str:
        """Name used in messages and for output files."""
        return self.volume.name

    @property
    def volumes(self) -> dict[str, Volume]:
        """All volumes by their role: a modality, or ``"brain mask"``."""
        named = {str(self.modality): self.volume}
        if self.flair is not None:
            named[str(Modality.FLAIR)] = self.flair
        if self.brain_mask is not None:
            named["brain mask"] = self.brain_mask
        return named
