"""Channels that can be scaled without changing what a network computes.

ReLU, pooling, upsampling and concatenation let a positive factor of a channel pass, and
an addition does where both addends have the same. So a channel may be divided by a
factor where a layer makes it, if the layers that take it multiply by the factor.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor

from calibration.plan import is_depthwise
from cnnres_infer.core.arrays import FloatArray
from export.onnx_graph import CONVS, constants_of, with_constants

Indices: TypeAlias = NDArray[np.intp]
Factors = TypeVar("Factors", FloatArray, Tensor)
_TRANSPARENT = ("Relu", "MaxPool", "Resize", "Transpose")
# The group of channels that are not scaled: those of images and logits.
_FIXED = 0


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of a network, in groups that can only be scaled alike.

    Attributes
    ----------
    model
        The network.
    groups
        The group of each channel of every tensor before the logits; those of
        group 0 are not scaled.
    partners
        The group that each is exchanged with where images are mirrored, or
        itself. There are such pairs in networks that are symmetric by
        construction: mirrored images make them compute the same, mirrored, in
        exchanged channels.
    """

    model: onnx.ModelProto
    groups: dict[str, Indices]
    partners: Indices

    def within_channel(self, tensor: str) -> tuple[int, ...]:
        """The axes of a tensor along which a channel's values lie."""
        transposed = (n.output[0] for n in self.model.graph.node if n.op_type == "Transpose")
        return (0, 1, 2) if tensor in transposed else (0, 2, 3)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> "Channels":
        """Find the groups of a network; see `export.torch_graph.TorchGraph`."""
        groups, count = _groups(model)
        partners = np.arange(count)
        exchanges = _exchanges(model, groups)
        for name, exchange in exchanges.items():
            partners[groups[name]] = groups[name][exchange]
        paired = np.array_equal(partners[partners], np.arange(count))
        return cls(model, groups, partners if paired else np.arange(count))

    def scaled(self, factors: FloatArray) -> onnx.ModelProto:
        """The network with the channels of each group divided by its factor (groups,)."""
        constants = {name: value.copy() for name, value in constants_of(self.model).items()}
        for node in self.model.graph.node:
            if node.op_type in CONVS:
                scaling = self.scaling(node, factors)
                square = node.op_type == "Conv"
                constants[node.input[1]] *= scaling[..., None, None] if square else scaling.T
                for bias in node.input[2:]:
                    constants[bias] /= factors[self.groups[node.output[0]]]
            elif node.op_type == "BatchNormalization":
                made, taken = (factors[self.groups[n]] for n in (node.output[0], node.input[0]))
                weight, bias, mean = (constants[name] for name in node.input[1:4])
                weight *= taken / made
                bias /= made
                mean /= taken
        return with_constants(self.model, constants)

    def scaling(self, conv: onnx.NodeProto, factors: Factors) -> Factors:
        """What a convolution's weights are multiplied by: (outputs or 1, inputs or 1)."""
        taken = factors[self.groups[conv.input[0]]]
        if conv.op_type == "MatMul":  # the head, whose output is not scaled
            return taken[None]
        made = factors[self.groups[conv.output[0]]]
        return (taken / made)[:, None] if is_depthwise(conv) else taken / made[:, None]


def _groups(model: onnx.ModelProto) -> tuple[dict[str, Indices], int]:
    """The group of each channel of every tensor before the logits, and how many there are."""
    constants = constants_of(model)
    image = model.graph.input[0]
    channels = image.type.tensor_type.shape.dim[1].dim_value
    groups: dict[str, Indices] = {image.name: np.zeros(channels, np.intp)}
    count, same = 1, [(_FIXED, _FIXED)]
    for node in model.graph.node:
        inputs = [groups[name] for name in node.input if name in groups]
        output = node.output[0]
        if node.op_type == "MatMul":  # the head
            break
        if node.op_type in ("Conv", "BatchNormalization"):
            width = len(constants[node.input[1]])
            groups[output] = np.arange(count, count + width)
            count += width
        elif node.op_type == "Concat":
            groups[output] = np.concatenate(inputs)
        elif node.op_type in _TRANSPARENT:
            groups[output] = inputs[0]
        elif node.op_type == "Add" and len(inputs) == 2:
            same += zip(*inputs, strict=True)
            groups[output] = inputs[0]
        else:
            same += [(_FIXED, index) for each in inputs for index in each]
    return _merged(groups, count, same)


def _merged(
    groups: Mapping[str, Indices], count: int, same: Iterable[tuple[int, int]]
) -> tuple[dict[str, Indices], int]:
    """Give groups that are to be scaled alike the same number, the lowest."""
    lowest = np.arange(count)
    for first, second in same:
        low, high = sorted((lowest[first], lowest[second]))
        lowest[lowest == high] = low
    return {name: lowest[each] for name, each in groups.items()}, count


def _exchanges(model: onnx.ModelProto, groups: Mapping[str, Indices]) -> dict[str, Indices]:
    """For each tensor the channels that mirroring exchanges; nothing without symmetry."""
    constants = constants_of(model)
    exchanges = {model.graph.input[0].name: np.arange(len(groups[model.graph.input[0].name]))}
    for node in model.graph.node:
        inputs = [exchanges[name] for name in node.input if name in exchanges]
        output = node.output[0]
        if output not in groups:
            continue
        if node.op_type == "Conv" and not is_depthwise(node):
            found = _exchanged_outputs(constants[node.input[1]], inputs[0])
            if found is None:
                return {}
            exchanges[output] = found
        else:
            starts = np.cumsum([0, *map(len, inputs)])
            joined = [each + start for each, start in zip(inputs, starts, strict=False)]
            exchanges[output] = np.concatenate(joined) if node.op_type == "Concat" else inputs[0]
    return exchanges


def _exchanged_outputs(kernels: NDArray[Any], inputs: Indices) -> Indices | None:
    """The output channels that have each other's kernels, mirrored, for exchanged inputs."""
    mirrored = kernels[:, inputs, :, ::-1]
    rows, others = (each.reshape(len(each), -1).astype(np.float64) for each in (mirrored, kernels))
    distances = (rows**2).sum(1)[:, None] + (others**2).sum(1) - 2 * rows @ others.T
    found: Indices = distances.argmin(axis=1)
    exact = np.allclose(rows, others[found], rtol=0, atol=1e-5 * np.abs(rows).max())
    return found if exact else None
