"""Merging what the network says of DWI and of FLAIR."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cnnres_infer.core.volume import FloatArray
from cnnres_infer.errors import BundleError

RULES: dict[str, Callable[[FloatArray, FloatArray, np.float32], FloatArray]] = {
    "dwi": lambda dwi, _flair, _weight: dwi,
    "mean": lambda dwi, flair, weight: weight * dwi + (1 - weight) * flair,
    "geometric": lambda dwi, flair, weight: dwi**weight * flair ** (1 - weight),
    "max": lambda dwi, flair, _weight: np.maximum(dwi, flair),
}


@dataclass(frozen=True)
class Fusion:
    """How two probabilities become one.

    Attributes
    ----------
    rule
        ``"dwi"`` (FLAIR has no say), ``"mean"`` or ``"geometric"`` (weighted
        means), or ``"max"``.
    dwi_weight
        Share of DWI in the weighted means, 0 to 1.
    """

    rule: str
    dwi_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise BundleError(
                f"fusion rule {self.rule!r} is none of {', '.join(RULES)}",
                code="E-BUNDLE-MANIFEST",
            )
        if not 0 <= self.dwi_weight <= 1:
            raise BundleError(
                f"fusion weight {self.dwi_weight} is not between 0 and 1", code="E-BUNDLE-MANIFEST"
            )

    def merge(self, dwi: FloatArray, flair: FloatArray) -> FloatArray:
        """Merge probabilities of one shape."""
        return RULES[self.rule](dwi, flair, np.float32(self.dwi_weight))
