"""The blocks of a network, which stay in float or compute in INT8 as a whole."""

from dataclasses import dataclass

import onnx
from onnx import numpy_helper, shape_inference

from calibration.plan import CONVS, conv_names


@dataclass(frozen=True)
class Block:
    """Convolutions that belong together: only as a whole do they spare a rounding.

    Attributes
    ----------
    name
        As in the network: ``residuals.0``.
    convs
        Their outputs.
    share
        Of all the network's multiply-adds.
    """

    name: str
    convs: frozenset[str]
    share: float


def layers(model: onnx.ModelProto) -> tuple[Block, ...]:
    """Each convolution that may compute in INT8, as a block of its own."""
    costs = _multiply_adds(model)
    total = sum(costs.values())
    allowed = conv_names(model)
    return tuple(
        Block(_layer_name(node), frozenset(node.output), costs[node.output[0]] / total)
        for node in model.graph.node
        if node.output[0] in allowed
    )


def blocks(model: onnx.ModelProto) -> tuple[Block, ...]:
    """The blocks whose convolutions may compute in INT8, in their order."""
    together: dict[str, list[Block]] = {}
    for layer in layers(model):
        together.setdefault(_block_name(layer.name), []).append(layer)
    return tuple(
        Block(name, frozenset().union(*(x.convs for x in parts)), sum(x.share for x in parts))
        for name, parts in together.items()
    )


def _layer_name(node: onnx.NodeProto) -> str:
    """What a convolution is called in the network."""
    return str(node.input[1]).removesuffix(".weight")


def _block_name(layer: str) -> str:
    """Name of a layer without its last part: ``residuals.0.conv1`` to ``residuals.0``."""
    return layer.rpartition(".")[0] or layer


def _multiply_adds(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-adds of each convolution for one image, by its output."""
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    costs = {}
    for node in model.graph.node:
        if node.op_type not in CONVS:
            continue
        size = sizes[node.input[0] if node.op_type == "ConvTranspose" else node.output[0]]
        pixels = size[1] * size[2] if node.op_type == "MatMul" else size[2] * size[3]
        costs[node.output[0]] = pixels * weights[node.input[1]].size
    return costs
