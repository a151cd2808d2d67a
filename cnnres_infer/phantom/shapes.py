"""Smooth shapes and fields in space, of which phantoms are made.

Positions are arrays (3, N) in mm.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray: TypeAlias = NDArray[np.float32]
Place: TypeAlias = tuple[float, float, float]
Tube: TypeAlias = tuple[Place, Place, float, float]

BLUR_MM = 0.5


class Waves:
    """A smooth random field of unit variance: plane waves of about one length (mm)."""

    def __init__(self, rng: np.random.Generator, count: int, length: float) -> None:
        lengths = length * rng.uniform(0.8, 1.25, count)
        self.vectors = [random_vector(rng, 2 * np.pi / length) for length in lengths]
        self.phases = rng.uniform(0, 2 * np.pi, count).astype(np.float32)

    def __call__(self, p: FloatArray) -> FloatArray:
        total = np.zeros(p.shape[1], np.float32)
        for vector, phase in zip(self.vectors, self.phases, strict=True):
            total += np.cos(vector @ p + phase)
        return total * np.float32(np.sqrt(2 / len(self.phases)))


def random_vector(rng: np.random.Generator, length: float) -> FloatArray:
    """A vector (3,) of a length, in any direction."""
    vector = rng.normal(size=3)
    return (vector * (length / np.linalg.norm(vector))).astype(np.float32)


def column(numbers: ArrayLike) -> FloatArray:
    """Three numbers as (3, 1), to meet positions (3, N)."""
    return np.asarray(numbers, np.float32)[:, None]


def mirrored(p: FloatArray) -> FloatArray:
    """Positions (3, N) brought to the right side."""
    return np.stack([abs(p[0]), p[1], p[2]])


def norm(p: FloatArray) -> FloatArray:
    """Lengths (N,) of vectors (3, N), never zero."""
    length: FloatArray = np.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2 + np.float32(1e-12))
    return length


def below(distance: FloatArray, blur: float = BLUR_MM) -> FloatArray:
    """From 1 well below a distance of zero to 0 well above, as a scanner blurs an edge."""
    share: FloatArray = 0.5 - 0.5 * np.tanh(distance * np.float32(0.5 / blur))
    return share


def ellipsoid(p: FloatArray, centre: ArrayLike, radii: ArrayLike) -> FloatArray:
    """Distance (mm) to an ellipsoid, to first order; negative inside."""
    scaled = (p - column(centre)) / column(radii)
    length = norm(scaled)
    return length * (length - 1) / norm(scaled / column(radii))


def tubes(p: FloatArray, parts: Sequence[Tube]) -> FloatArray:
    """Distance (mm) to the nearest of some tubes; negative inside."""
    nearest = np.full(p.shape[1], np.inf, np.float32)
    for start, end, first, last in parts:
        axis, away = column(end) - column(start), p - column(start)
        along = (axis[:, 0] @ away / (axis**2).sum()).clip(0, 1)
        distance = norm(away - axis * along) - first - (last - first) * along
        nearest = np.minimum(nearest, distance)
    return nearest
