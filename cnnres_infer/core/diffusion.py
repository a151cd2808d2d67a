"""How lesions are checked for restricted diffusion, and what came of it, as reports give it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RestrictionSpec:
    """Which lesions restrict diffusion; all others are taken out of the mask.

    Attributes
    ----------
    relative_adc_below
        A voxel restricts diffusion if its ADC is below this multiple of the brain's
        median.
    least_share
        Share of its voxels that must restrict diffusion for a lesion to be kept. Of
        a small one, many voxels also hold some of the tissue around it.
    """

    relative_adc_below: float
    least_share: float = 0.5


@dataclass(frozen=True)
class DiffusionCheck:
    """What is known of the diffusion in a case's lesions, and what was done about it.

    Attributes
    ----------
    checked
        Whether lesions of unrestricted diffusion were taken out of the mask.
    note
        What that means in words, or why it was not done.
    by
        What the ADC was taken from, ``"adc"`` or ``"b0"``; None where it is not
        known.
    b_value
        b-value of the DWI in s/mm², where the ADC was computed from b0 and it is
        known.
    brain_adc_mm2_s
        Median ADC of the brain in mm²/s; None where the unit is not known.
    relative_adc_below, least_restricted_share
        The model's bounds; None where it has none. See `RestrictionSpec`.
    """

    checked: bool
    note: str
    by: str | None = None
    b_value: float | None = None
    brain_adc_mm2_s: float | None = None
    relative_adc_below: float | None = None
    least_restricted_share: float | None = None
