"""Lesions of phantoms."""

from dataclasses import dataclass

import numpy as np

from cnnres_infer.errors import UsageError
from cnnres_infer.phantom.shapes import FloatArray, column, coverage, norm, random_vector


@dataclass(frozen=True)
class PhantomLesion:
    """A bright, irregularly shaped lesion.

    Attributes
    ----------
    centre_mm
        Centre in mm, RAS+.
    radius_mm
        Radius of a ball of the same volume, in mm.
    brightness
        Intensity relative to the surrounding tissue.
    irregularity
        Deviation from a ball: 0 for a ball, up to but excluding 1.
    outline
        Seed of the random shape.

    Raises
    ------
    UsageError
        If a value is out of range.
    """

    centre_mm: tuple[float, float, float]
    radius_mm: float
    brightness: float = 1.8
    irregularity: float = 0.6
    outline: int = 0

    def __post_init__(self) -> None:
        sizes = (self.radius_mm, self.brightness)
        valid = np.isfinite((*self.centre_mm, *sizes)).all() and min(sizes) > 0
        if not valid or not 0 <= self.irregularity < 1:
            raise UsageError(
                f"{self}: the centre must be finite, radius and brightness positive, and "
                "irregularity from 0 to below 1"
            )

    @property
    def volume_ml(self) -> float:
        """Volume in ml, including any part outside the brain, which a phantom omits."""
        return 4 / 3 * np.pi * self.radius_mm**3 / 1000

    def partial_volume(self, p: FloatArray) -> FloatArray:
        """Fraction of lesion (N,) at positions (3, N), 0 to 1."""
        rng = np.random.default_rng(self.outline)
        axes, stretch = np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.normal(size=3).clip(-1, 1)
        axes = axes * np.exp(0.4 * self.irregularity * (stretch - stretch.mean()))
        offset = axes.astype(np.float32) @ (p - column(self.centre_mm))
        distance = norm(offset)
        # The volume depends on the mean of the cubed radius over all directions. Odd functions
        # of the direction have a mean of zero, so that adding them preserves the volume.
        bulges = sum(np.sin(random_vector(rng, k) @ (offset / distance)) for k in (2.0, 3.5, 5.0))
        radius = self.radius_mm * np.cbrt(1 + np.float32(self.irregularity / 3) * bulges)
        return coverage(distance - radius)
