"""How lesions were checked for restricted diffusion, as reports give it."""

from dataclasses import dataclass


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
    relative_adc_below
        The model's bound; None where it has none.
    """

    checked: bool
    note: str
    by: str | None = None
    b_value: float | None = None
    brain_adc_mm2_s: float | None = None
    relative_adc_below: float | None = None
