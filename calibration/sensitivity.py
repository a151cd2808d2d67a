"""Sensitivity of each layer to its quantisation."""

from dataclasses import dataclass
from typing import Any

from calibration.blocks import layers
from calibration.candidate import Candidate
from calibration.logit_error import LogitError


@dataclass(frozen=True)
class LayerSensitivity:
    """How much of a candidate's logit error is due to one convolution.

    Attributes
    ----------
    name
        Name of the convolution in the network.
    share
        Its share of the multiply-adds.
    error_alone
        Logit error if it alone is computed in INT8.
    error_without
        Logit error if it alone is kept in float.
    """

    name: str
    share: float
    error_alone: float
    error_without: float

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON, by the keys that ``calibration.json`` has always had."""
        return {
            "name": self.name,
            "share": self.share,
            "alone": self.error_alone,
            "spared": self.error_without,
        }


def layer_sensitivities(candidate: Candidate, logit_error: LogitError) -> list[LayerSensitivity]:
    """Measure every layer of a candidate, sorted from the most sensitive to the least."""
    every = layers(candidate.model)
    measured = [
        LayerSensitivity(
            layer.name,
            layer.share,
            candidate.in_float(other for other in every if other is not layer).error(logit_error),
            candidate.in_float([layer]).error(logit_error),
        )
        for layer in every
    ]
    return sorted(measured, key=lambda layer: (layer.error_without, -layer.error_alone))
