"""The volumes of one patient that are segmented together."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import UsageError


class Modality(StrEnum):
    """The MRI contrast of a volume that is segmented."""

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


class Role(StrEnum):
    """What a volume is to a case."""

    DWI = "dwi"
    FLAIR = "flair"
    ADC = "adc"
    B0 = "b0"
    BRAIN_MASK = "brain mask"


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
    adc
        The ADC map of a DWI, on any grid and in any unit; lesions are checked
        for restricted diffusion by it.
    b0
        Instead of `adc`: the image without diffusion weighting of the same
        series, on any grid, with the intensities of the DWI.
    b_value
        b-value of the DWI in s/mm², where it is known; makes an ADC of `b0`.

    Raises
    ------
    UsageError
        If the modality is unknown, the b-value is not positive, or volumes are
        combined that do not belong together: a FLAIR with a FLAIR, ADC or b0, or
        ADC with b0.
    """

    modality: Modality
    volume: Volume
    flair: Volume | None = None
    brain_mask: Volume | None = None
    adc: Volume | None = None
    b0: Volume | None = None
    b_value: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "modality", Modality.parse(self.modality))
        if self.b_value is not None and not 0 < self.b_value < math.inf:
            raise UsageError(f"the b-value is {self.b_value}; it must be greater than 0")
        check_combination(
            self.modality,
            flair=self.flair is not None,
            adc=self.adc is not None,
            b0=self.b0 is not None,
        )

    @property
    def name(self) -> str:
        """Name used in messages and for output files."""
        return self.volume.name

    @property
    def volumes(self) -> dict[str, Volume]:
        """All volumes by their `Role`."""
        volumes = {
            Role(self.modality): self.volume,
            **({} if self.flair is None else {Role.FLAIR: self.flair}),
            Role.ADC: self.adc,
            Role.B0: self.b0,
            Role.BRAIN_MASK: self.brain_mask,
        }
        return {str(role): volume for role, volume in volumes.items() if volume is not None}


def check_combination(
    modality: Modality, *, flair: bool, adc: bool, b0: bool, b_value: bool = False
) -> None:
    """Check that volumes belong together, and to what is said of them.

    Parameters
    ----------
    modality
        Modality of the volume to segment.
    flair, adc, b0
        Whether there is one besides.
    b_value
        Whether the b-value of the volume to segment was stated, or is asked for.

    Raises
    ------
    UsageError
        If they do not.
    """
    if modality is Modality.FLAIR and flair:
        raise UsageError("two FLAIR volumes cannot be combined; give the DWI first")
    if modality is Modality.FLAIR and (adc or b0):
        raise UsageError(
            "diffusion is checked in a DWI, not in a FLAIR; give the DWI first, or leave out `adc` "
            "and `b0`"
        )
    if modality is Modality.FLAIR and b_value:
        raise UsageError("a FLAIR has no b-value; leave out `bvalue`")
    if adc and b0:
        raise UsageError("`adc` and `b0` are alternatives; give only one, `adc` if you have it")
