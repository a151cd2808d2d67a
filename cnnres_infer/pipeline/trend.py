"""The smooth trend of intensities, which edges of tissue and of lesions do not bend."""

from itertools import combinations_with_replacement
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray

# Order of the trend, a polynomial; a higher one takes an infarct of a hemisphere for shading.
_ORDER = 3
# Its terms, each by the axes whose positions it multiplies.
_TERMS = [
    axes
    for order in range(1, _ORDER + 1)
    for axes in combinations_with_replacement(range(3), order)
]
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
    terms = _polynomial(positions)
    steps = [_steps(axis, level, seen, terms) for axis in range(level.ndim)]
    if not any(each.rise.size for each in steps):
        return np.zeros_like(level)
    factors = _fitted(steps)
    for edge in _EDGES:
        factors = _fitted([each.weighted(factors, np.float32(edge)) for each in steps])
    trend: FloatArray = (factors @ terms.reshape(len(terms), -1)).reshape(level.shape)
    return trend


class _Steps(NamedTuple):
    """Differences between neighbours along one axis: of the terms that change there, of levels.

    `terms` (J,) are the indices of these terms, `changes` (J, N) and `rise` (N,) the differences.
    """

    terms: NDArray[np.intp]
    changes: FloatArray
    rise: FloatArray

    def weighted(self, factors: FloatArray, edge: np.float32) -> Self:
        """The same, with roots of weights that tell how well factors (K,) explain the levels."""
        doubt = (self.rise - factors[self.terms] @ self.changes) / edge
        root = np.reciprocal(1 + doubt * doubt)
        return self._replace(changes=self.changes * root, rise=self.rise * root)


def _steps(axis: int, level: FloatArray, seen: BoolArray, terms: FloatArray) -> _Steps:
    ahead, behind = ((slice(None),) * axis + (part,) for part in (slice(1, None), slice(-1)))
    # Taken by their places, which is faster than by a mask as often as this.
    both = np.flatnonzero(seen[ahead] & seen[behind])
    changing = [k for k, axes in enumerate(_TERMS) if axis in axes]

    def differences(values: FloatArray) -> FloatArray:
        return (values[ahead] - values[behind]).ravel().take(both)

    changes = np.array([differences(terms[k]) for k in changing])
    return _Steps(np.array(changing), changes, differences(level))


def _fitted(steps: list[_Steps]) -> FloatArray:
    """Factors (K,) of the terms whose changes fit those of levels best."""
    count = len(_TERMS)
    normal, right = np.zeros((count, count)), np.zeros(count)
    for terms, changes, rise in steps:
        normal[terms[:, None], terms] += changes @ changes.T
        right[terms] += changes @ rise
    # Along an axis of one voxel, terms do not change: a little of the identity decides.
    normal.flat[:: count + 1] += _RIDGE * max(np.trace(normal) / count, _TINY)
    return np.linalg.solve(normal, right).astype(np.float32)


def _polynomial(positions: list[NDArray[np.float64]]) -> FloatArray:
    """Terms (K, X, Y, Z) of a polynomial without constant, each at most one."""
    scale = max(_SMALLEST_MM, *(float(np.abs(p).max()) for p in positions))
    axes = np.meshgrid(
        *((p / scale).astype(np.float32) for p in positions), indexing="ij", sparse=True
    )
    terms = np.empty((len(_TERMS), *map(len, positions)), np.float32)
    for term, (*others, last) in zip(terms, _TERMS, strict=True):
        lower = terms[_TERMS.index(tuple(others))] if others else np.float32(1)
        np.multiply(lower, axes[last], out=term)
    return terms
