"""Quadratics in position that fit weighted values on a grid.

All that a fit needs of the grid are moments: sums of the weights times powers of their
positions, which are summed up axis by axis.
"""

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import FloatArray

# The powers of the positions on each axis, in each term of a quadratic.
_TERMS = np.array(
    [
        *((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
        *((2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 1, 0), (1, 0, 1), (0, 1, 1)),
    ]
)
_LINEAR = 4
# What bends the trend must explain more than this share of variance.
_STIFFNESS = 0.02
_RIDGE = 1e-7


def powers(positions: list[NDArray[np.float64]]) -> list[FloatArray]:
    """Powers 0 to 4 of the positions on each axis, (5, N), scaled to at most one."""
    scale = max(1.0, *(float(np.abs(each).max()) for each in positions))
    return [((each / scale) ** np.arange(5)[:, None]).astype(np.float32) for each in positions]


def fitted(weight: FloatArray, weighted: FloatArray, powers: list[FloatArray]) -> FloatArray:
    """The quadratic that fits best.

    Parameters
    ----------
    weight
        (X, Y, Z), the weight of the value at each position.
    weighted
        The values times their weights.
    powers
        Those of the positions on each axis; see `powers`.

    Returns
    -------
    array
        (X, Y, Z), the quadratic at all positions.
    """
    low = [each[:3] for each in powers]
    moments = _along_axes(weight, powers).astype(np.float64)
    right = _along_axes(weighted, low)[tuple(_TERMS.T)].astype(np.float64)
    normal = moments[tuple((_TERMS[:, None] + _TERMS).T)]
    bent = np.arange(len(_TERMS)) >= _LINEAR
    normal += np.diag(_STIFFNESS * moments[0, 0, 0] * bent)
    # Along an axis of one voxel, terms are equal or zero: a little of the identity decides.
    normal += _RIDGE * np.trace(normal) * np.eye(len(normal))
    factors = np.zeros((3, 3, 3), np.float32)
    factors[tuple(_TERMS.T)] = np.linalg.solve(normal, right)
    return _along_axes(factors, [each.T for each in low])


def _along_axes(data: FloatArray, matrices: list[FloatArray]) -> FloatArray:
    """Apply one matrix to each axis of (X, Y, Z)."""
    x, y, z = matrices
    along_z = (data.reshape(-1, data.shape[2]) @ z.T).reshape(*data.shape[:2], len(z))
    return np.tensordot(x, np.matmul(y, along_z), 1)
