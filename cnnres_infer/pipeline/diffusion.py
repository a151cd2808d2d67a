"""Diffusion: the apparent diffusion coefficient (ADC), and lesions that do not restrict it.

Fresh infarcts are bright on DWI since water hardly moves in them. What is
bright for another reason (coils, T2, susceptibility) has the ADC of its
surroundings or more, so that the ADC of a lesion's voxels over the brain's tells
the two apart, in whatever unit a file holds it.
"""

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray

# ADC of brain tissue in each unit that maps come in, and what turns that into mm²/s.
ADC_TISSUE = {
    "mm2/s": (3e-4, 3e-3, 1.0),
    "10^-3 mm2/s": (0.3, 3.0, 1e-3),
    "10^-6 mm2/s": (300.0, 3000.0, 1e-6),
}
# Of brains in mm²/s, computed from b0: 0.65e-3 to 0.88e-3 at b of 900 to 2500. Up to these
# bounds, a scale of b0 that is not the DWI's changes relative ADC too little to reject an infarct
# whose core is below 0.65 of the brain's ADC.
_ADC_BY_B0 = (0.5e-3, 1.5e-3)
# Share of a lesion's voxels whose ADC must be known to judge it.
_KNOWN = 0.5
# About how many voxels of two images are compared, and how few of a brain tell nothing.
_SAMPLE = 30_000
_ENOUGH = 100


def adc_from_b0(dwi: FloatArray, b0: FloatArray, b: float) -> FloatArray:
    """ADC by ``ln(b0 / dwi) / b``.

    Parameters
    ----------
    dwi, b0
        (X, Y, Z) on one grid, in one unit.
    b
        b-value of the DWI in s/mm²; relative ADC does not depend on it.

    Returns
    -------
    float32 (X, Y, Z) in mm²/s, NaN where either intensity is not positive.
    """
    known = (dwi > 0) & (b0 > 0)
    adc = np.full(dwi.shape, np.nan, np.float32)
    adc[known] = (np.log(b0[known]) - np.log(dwi[known])) / np.float32(b)
    return adc


def brain_adc(adc: FloatArray, brain: BoolArray) -> float:
    """Median ADC of a brain, in the unit of `adc`; NaN where none is positive.

    Voxels that are not positive are background or noise, and do not count.
    """
    values = adc[brain & (adc > 0)]
    return float(np.median(values)) if values.size else float("nan")


def lesion_adc(labels: NDArray[np.unsignedinteger], adc: FloatArray) -> list[FloatArray]:
    """Known ADC of each lesion's voxels.

    Parameters
    ----------
    labels
        (X, Y, Z): 0, or the lesion's number, from 1 to N.
    adc
        (X, Y, Z) in any unit; what is not finite or not positive is unknown.

    Returns
    -------
    list of N arrays float32 (n,)
        Empty for lesions whose ADC is unknown in more than half of their voxels.
    """
    count = int(labels.max()) if labels.size else 0
    places = np.flatnonzero(labels)
    numbers, values = labels.ravel()[places], adc.ravel()[places]
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(1, count + 2))
    each = []
    for lesion in range(count):
        inside = values[order[starts[lesion] : starts[lesion + 1]]]
        known = inside[np.isfinite(inside) & (inside > 0)]
        each.append(known if known.size >= _KNOWN * inside.size else known[:0])
    return each


def median_adc(adc: list[FloatArray]) -> NDArray[np.float64]:
    """Median ADC of each lesion: float64 (N,), NaN where it is unknown."""
    return np.array([np.median(each) if each.size else np.nan for each in adc])


def restricted_shares(adc: list[FloatArray], below: float) -> NDArray[np.float64]:
    """Share of each lesion's known voxels whose ADC is below a bound: float64 (N,).

    NaN where the ADC is unknown, or the bound is NaN.
    """
    known = np.isfinite(below)
    return np.array([np.mean(each < below) if known and each.size else np.nan for each in adc])


def is_unrestricted(shares: NDArray[np.float64], smallest: float) -> BoolArray:
    """Which lesions are to be rejected: bool (N,), False where the ADC is unknown.

    Parameters
    ----------
    shares
        (N,): `restricted_shares`, NaN where the ADC is unknown.
    smallest
        Lesions of a smaller share are rejected.
    """
    return shares < smallest


def mm2_per_s(brain_median: float) -> float | None:
    """What turns an ADC into mm²/s, given the brain's median; None for no usual unit."""
    for low, high, factor in ADC_TISSUE.values():
        if low <= brain_median <= high:
            return factor
    return None


def is_plausible(brain_median: float, b: float | None) -> bool:
    """Whether b0 is on the scale of the DWI, by the ADC that the two make of the brain.

    Parameters
    ----------
    brain_median
        ADC in mm²/s, by a b-value of 1000 where that is not known.
    b
        b-value of the DWI in s/mm²; None where it is not known, so that more is
        plausible.
    """
    low, high = ADC_TISSUE["mm2/s"][:2] if b is None else _ADC_BY_B0
    return low <= brain_median <= high


def rises_together(dwi: FloatArray, other: FloatArray, where: BoolArray) -> float | None:
    """Rank correlation of two images, from -1 to 1; None if it cannot be told.

    The ADC falls where a DWI rises, since a DWI is bright where water hardly
    moves. An image without diffusion weighting rises with it.

    Parameters
    ----------
    dwi, other
        (X, Y, Z) on one grid.
    where
        bool (X, Y, Z): the brain. Voxels that are not positive do not count.
    """
    step = max(1, round((where.size / _SAMPLE) ** (1 / 3)))
    every = (slice(None, None, step),) * 3
    known = where[every] & (dwi[every] > 0) & (other[every] > 0)
    ranks = [_ranks(image[every][known]) for image in (dwi, other)]
    spread = [float(np.linalg.norm(each)) for each in ranks]
    if len(ranks[0]) < _ENOUGH or not min(spread):
        return None
    return float(ranks[0] @ ranks[1]) / (spread[0] * spread[1])


def _ranks(values: FloatArray) -> NDArray[np.float64]:
    """Ranks (N,) that sum to zero, the same for the same values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2 - (len(values) - 1) / 2
    ranks: NDArray[np.float64] = middle[inverse]
    return ranks
