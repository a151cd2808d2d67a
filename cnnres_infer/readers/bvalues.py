"""The rule by which b-values select the diffusion-weighted images, whatever the format.

The b-value nearest to 1000 s/mm2 from 700 to 1500 is taken, or the one that was
asked for. Its images are a trace image, or the directions whose geometric mean
is one.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import Notice, WarningCode
from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.errors import UsageError

# In s/mm2: the usual b-value and the range of clinical stroke protocols, how much the b-values
# of one shell vary, and up to where an image counts as not diffusion-weighted.
USUAL = 1000.0
CLINICAL_RANGE = (700.0, 1500.0)
SHELL_WIDTH = 50.0
LARGEST_B0 = 50.0
_MAX_LISTED = 20


def nearest(values: Iterable[float], wanted: float | None = None) -> float | None:
    """The b-value to segment; None if there is none.

    Of two that are equally near, the higher is taken, in which infarcts stand
    out more.

    Parameters
    ----------
    values
        The b-values that there are, in s/mm2.
    wanted
        Take the one nearest to this, which it may miss by the width of a shell,
        instead of one near 1000.
    """
    lowest, highest = CLINICAL_RANGE
    aim = USUAL
    if wanted is not None:
        aim, lowest, highest = wanted, wanted - SHELL_WIDTH, wanted + SHELL_WIDTH
    eligible = [b for b in values if lowest <= b <= highest and b > LARGEST_B0]
    return min(eligible, key=lambda b: (abs(b - aim), -b), default=None)


def in_shell(values: Sequence[float] | NDArray[np.float64], b: float) -> BoolArray:
    """Which of the b-values belong to the shell of one of them."""
    return np.abs(np.asarray(values, np.float64) - b) <= SHELL_WIDTH


def check_stated(b: float) -> None:
    """Check a b-value that the caller states of a DWI, which nothing else says.

    Raises
    ------
    UsageError
        If an image of that b-value is a b0.
    """
    if b <= LARGEST_B0:
        raise UsageError(
            f"`bvalue` is {b:g}; an image of at most {LARGEST_B0:g} s/mm2 is a b0, not a DWI"
        )


def unusual(b: float) -> Iterator[Notice]:
    """A warning if a b-value is outside the range of clinical stroke protocols."""
    lowest, highest = CLINICAL_RANGE
    if not lowest <= b <= highest:
        text = f"b = {b:g} s/mm2; the model is for {lowest:g} to {highest:g} s/mm2"
        yield Notice(WarningCode.INPUT_BVALUE, text)


def listed(values: Iterable[float]) -> str:
    """The different b-values in ascending order, for messages."""
    different = [f"{b:g}" for b in sorted(set(values))]
    return ", ".join(different[:_MAX_LISTED]) + (", ..." if len(different) > _MAX_LISTED else "")


def mean_of(parts: Iterable[NDArray[Any]], *, geometric: bool) -> NDArray[np.float64]:
    """Mean of images; what is not finite in one is not in the mean.

    The geometric mean of directions is the image of their mean diffusivity. Where
    one of them is not positive, it is the lowest of them: zero, or negative as
    that of a single image is, which is then noticed.
    """
    if not geometric:
        return np.asarray(np.mean(list(parts), axis=0, dtype=np.float64))
    total: Any = 0.0
    lowest: Any = np.inf
    count = 0
    for part in parts:
        total = total + np.log(np.where(part <= 0, 1, part), dtype=np.float64)
        lowest = np.minimum(lowest, part)
        count += 1
    mean = np.exp(total / count)
    return np.asarray(np.where((lowest <= 0) & np.isfinite(mean), lowest, mean), np.float64)
