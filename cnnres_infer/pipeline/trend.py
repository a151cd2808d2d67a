"""The smooth trend of intensities, which edges of tissue and of lesions do not bend."""

from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray

# Order of the trend, a polynomial; a higher one takes an infarct of a hemisphere for shading.
_ORDER = 3
# Differences of log intensity above these are taken for edges of tissue and count less and less.
# The first fit weights all differences equally.
_EDGES = (0.2, 0.12, 0.1, 0.1, 0.1)
# Share of their mean square that keeps terms small which differences hardly tell.
_RIDGE = 0.01

# Half of the extent from which on the trend is as flexible as for a whole head: what is smaller
# than that could be a lesion.
_SMALLEST_MM = 60.0
_TINY = 1e-9


def fitted_trend(
    level: FloatArray, seen: BoolArray, positions: list[NDArray[np.float64]]
) -> FloatArray:
    """The cubic polynomial whose differences fit those of levels best, but for a constant.

    Parameters
    ----------
    level
        float32 (X, Y, Z).
    seen
        bool (X, Y, Z); differences are those of neighbours along an axis that
        are both seen.
    positions
        Of the levels along each axis, in mm.

    Returns
    -------
    FloatArray
        (X, Y, Z); zeros if there are no neighbours.

    References
    ----------
    Geman, McClure, "Statistical methods for tomographic image reconstruction",
    Bull. Int. Stat. Inst. 52 (1987): the weights of differences.
    """
    terms = _polynomial(positions).reshape(-1, level.size)
    number = np.arange(level.size).reshape(level.shape)
    pairs = []
    for axis in range(level.ndim):
        ahead, behind = ((slice(None),) * axis + (part,) for part in (slice(1, None), slice(-1)))
        both = seen[ahead] & seen[behind]
        pairs.append((number[ahead][both], number[behind][both]))
    first, second = (np.concatenate(each) for each in zip(*pairs, strict=True))
    if not len(first):
        return np.zeros_like(level)
    step = level.ravel()[first] - level.ravel()[second]
    change = terms.take(first, axis=1)
    change -= terms.take(second, axis=1)
    factors = _fitted(change, step, change)
    weighted = np.empty_like(change)
    for edge in _EDGES:
        doubt = (step - factors @ change) / np.float32(edge)
        np.multiply(change, 1 / (1 + doubt * doubt) ** 2, out=weighted)
        factors = _fitted(change, step, weighted)
    trend: FloatArray = (factors @ terms).reshape(level.shape)
    return trend


def _fitted(terms: FloatArray, level: FloatArray, weighted: FloatArray) -> FloatArray:
    """Factors (K,) of terms (K, N) that fit levels (N,) best; `weighted` are weighted terms."""
    normal = (weighted @ terms.T).astype(np.float64)
    # Along an axis of one voxel, terms do not change: a little of the identity decides.
    normal += _RIDGE * max(np.trace(normal) / len(normal), _TINY) * np.eye(len(normal))
    factors: FloatArray = np.linalg.solve(normal, weighted @ level).astype(np.float32)
    return factors


def _polynomial(positions: list[NDArray[np.float64]]) -> FloatArray:
    """Terms (K, X, Y, Z) of a polynomial without constant, each at most one."""
    scale = max(_SMALLEST_MM, *(float(np.abs(p).max()) for p in positions))
    axes = np.meshgrid(*((p / scale).astype(np.float32) for p in positions), indexing="ij")
    return np.stack(
        [
            np.prod(factors, axis=0)
            for order in range(1, _ORDER + 1)
            for factors in combinations_with_replacement(axes, order)
        ]
    )
