"""How lesions are checked for restricted diffusion, and what came of it, as reports give it."""

from dataclasses import dataclass

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import BundleError


@dataclass(frozen=True)
class RestrictionSpec:
    """Which lesions restrict diffusion; those known not to are taken out of the mask.

    Attributes
    ----------
    relative_adc_below
        A voxel restricts diffusion if its ADC is below this multiple of the brain's
        median.
    smallest_restricted_share
        Smallest share of a lesion's voxels that must restrict diffusion for it to be
        kept. Many voxels of a small lesion also hold some of the tissue around it.

    Raises
    ------
    BundleError
        If a value is out of range.
    """

    relative_adc_below: float
    smallest_restricted_share: float = 0.5

    def __post_init__(self) -> None:
        below, share = self.relative_adc_below, self.smallest_restricted_share
        for holds, message in (
            (
                0 < below <= 2,
                f"bound of the relative ADC is {below}, not above 0 and up to 2",
            ),
            (
                0 < share <= 1,
                f"smallest share of restricted voxels is {share}, not above 0 and up to 1",
            ),
        ):
            if not holds:
                raise BundleError(message, code=ErrorCode.BUNDLE_MANIFEST)


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
    relative_adc_below, smallest_restricted_share
        The model's bounds; None where it has none, or the ADC is not known. See
        `RestrictionSpec`.
    """

    checked: bool
    note: str
    by: str | None = None
    b_value: float | None = None
    brain_adc_mm2_s: float | None = None
    relative_adc_below: float | None = None
    smallest_restricted_share: float | None = None
