"""Diffusion: the apparent diffusion coefficient (ADC), and lesions that do not restrict it.

Fresh infarcts are bright on DWI since water hardly moves in them. What is
bright for another reason (coils, T2, susceptibility) has the ADC of its
surroundings or more, so that a lesion's ADC over its brain's tells the two
apart, in whatever unit a file holds it.
"""

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray


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


def relative_adc(
    labels: NDArray[np.unsignedinteger], adc: FloatArray, brain: BoolArray
) -> NDArray[np.float64]:
    """Median ADC of each lesion over the brain's median.

    Parameters
    ----------
    labels
        (X, Y, Z): 0, or the lesion's number, from 1 to N.
    adc
        (X, Y, Z) in any unit; what is not finite is unknown.
    brain
        bool (X, Y, Z).

    Returns
    -------
    float64 (N,), NaN for lesions of unknown ADC, and for all if the brain's is.
    """
    count = int(labels.max()) if labels.size else 0
    medians = np.full(count, np.nan)
    places = np.flatnonzero(labels)
    numbers, values = labels.ravel()[places], adc.ravel()[places]
    for lesion in range(count):
        known = values[numbers == lesion + 1]
        known = known[np.isfinite(known)]
        if known.size:
            medians[lesion] = np.median(known)
    return medians / brain_adc(adc, brain)


def is_unrestricted(relative: NDArray[np.float64], bound: float) -> BoolArray:
    """Which lesions are to be rejected: bool (N,), False where the ADC is unknown.

    Parameters
    ----------
    relative
        (N,) as `relative_adc` gives it.
    bound
        Lesions whose relative ADC is not below it are rejected.
    """
    return np.isfinite(relative) & ~(relative < bound)
