"""Sensitivity of each layer to its quantisation."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from calibration.blocks import Block, blocks, layers
from calibration.noise import NoiseModel
from calibration.plan import Plan

# What converting from and to 8 bits around a block costs, in shares of the multiply-adds.
_CONVERSIONS = 0.02


@dataclass(frozen=True)
class LayerSensitivity:
    """How much of the predicted error of the logits is due to one convolution.

    Attributes
    ----------
    name
        Name of the convolution in the network.
    share
        Its share of the multiply-adds.
    error_alone
        Root mean square error if it alone is computed in INT8.
    error_without
        The same if it alone is kept in float.
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


def layer_sensitivities(noise: NoiseModel, plan: Plan, factors: Tensor) -> list[LayerSensitivity]:
    """Predict the errors of all layers of a plan, sorted from the most sensitive to the least."""
    every = layers(noise.channels.model)
    convs = frozenset[str]().union(*(layer.convs for layer in every))

    def error(in_int8: frozenset[str]) -> float:
        changed = noise.plan(factors, plan.scheme, convs - in_int8)
        return noise.error(changed, factors).sqrt().item()

    found = [
        LayerSensitivity(
            layer.name, layer.share, error(layer.convs), error(plan.convs - layer.convs)
        )
        for layer in every
        if layer.convs <= plan.convs
    ]
    return sorted(found, key=lambda layer: (layer.error_without, -layer.error_alone))


def most_sensitive_block(noise: NoiseModel, plan: Plan, factors: Tensor) -> Block:
    """The block in INT8 that makes the most error for what keeping it in float costs."""
    every, whole = blocks(noise.channels.model), noise.error(plan, factors).item()
    in_float = frozenset[str]().union(*(block.convs for block in every)) - plan.convs

    def saved(block: Block) -> float:
        without = noise.plan(factors, plan.scheme, in_float | block.convs)
        return (whole - noise.error(without, factors).item()) / (block.share + _CONVERSIONS)

    return max((block for block in every if block.convs <= plan.convs), key=saved)
