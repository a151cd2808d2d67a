"""Which layers lose most when they compute in INT8."""

from dataclasses import asdict, dataclass
from typing import Any

from calibration.blocks import layers
from calibration.candidate import Candidate
from calibration.closeness import Closeness


@dataclass(frozen=True)
class Layer:
    """A convolution's part in the loss.

    Attributes
    ----------
    name
        What it is called in the network.
    share
        Of all multiply-adds.
    alone
        Error of the logits near the threshold when it alone computes in INT8.
    spared
        The same when all but it do.
    """

    name: str
    share: float
    alone: float
    spared: float

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return asdict(self)


def layer_sensitivities(candidate: Candidate, closeness: Closeness) -> list[Layer]:
    """Measure every layer of a candidate, the one to blame most first."""
    every = layers(candidate.model)
    measured = [
        Layer(
            layer.name,
            layer.share,
            candidate.in_float(other for other in every if other is not layer).error(closeness),
            candidate.in_float([layer]).error(closeness),
        )
        for layer in every
    ]
    return sorted(measured, key=lambda layer: (layer.spared, -layer.alone))
