"""Signed distances of shapes and smooth random fields, from which phantoms are composed.

Positions are arrays (3, N) in mm.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray: TypeAlias = NDArray[np.float32]
Point: TypeAlias = tuple[float, float, float]
Tube: TypeAlias = tuple[Point, Point, float, float]

BLUR_MM = 0.5


class Waves:
    """A smooth random field of unit variance: a sum of plane waves of similar wavelengths (mm)."""

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
    """Vector (3,) of a given length in a random direction."""
    vector = rng.normal(size=3)
    return (vector * (length / np.linalg.norm(vector))).astype(np.float32)


def column(numbers: ArrayLike) -> FloatArray:
    """Three numbers as a column (3, 1), which broadcasts with positions (3, N)."""
    return np.asarray(numbers, np.float32)[:, None]


def mirrored(p: FloatArray) -> FloatArray:
    """Positions (3, N) mirrored to the right side."""
    return np.stack([abs(p[0]), p[1], p[2]])


def norm(p: FloatArray) -> FloatArray:
    """Norms (N,) of vectors (3, N), never zero."""
    length: FloatArray = np.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2 + np.float32(1e-12))
    return length


def coverage(distance: FloatArray, blur: float = BLUR_MM) -> FloatArray:
    """Fraction inside a shape with a blurred edge, 0 to 1, by its signed distance (mm)."""
    fraction: FloatArray = 0.5 - 0.5 * np.tanh(distance * np.float32(0.5 / blur))
    return fraction


def ellipsoid(p: FloatArray, centre: ArrayLike, radii: ArrayLike) -> FloatArray:
    """Signed distance (mm) to an ellipsoid, to first order; negative inside."""
    scaled = (p - column(centre)) / column(radii)
    length = norm(scaled)
    return length * (length - 1) / norm(scaled / column(radii))


def tubes(p: FloatArray, parts: Sequence[Tube]) -> FloatArray:
    """Signed distance (mm) to the nearest of several tapered tubes; negative inside."""
    nearest = np.full(p.shape[1], np.inf, np.float32)
    for start, end, start_radius, end_radius in parts:
        axis, offset = column(end) - column(start), p - column(start)
        along = (axis[:, 0] @ offset / (axis**2).sum()).clip(0, 1)
        radial = norm(offset - axis * along)
        distance = radial - start_radius - (end_radius - start_radius) * along
        nearest = np.minimum(nearest, distance)
    return nearest
