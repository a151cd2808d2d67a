"""The blocks of a network, each of which is computed in INT8 or kept in float as a whole."""

from dataclasses import dataclass

import onnx
from onnx import shape_inference

from calibration.plan import conv_names
from export.onnx_graph import CONVS, constants_of, copy_of

# A multiple of 32.
_ANY_SIDE = 160


@dataclass(frozen=True)
class Block:
    """Convolutions kept in float together: only then are the activations between them not rounded.

    Attributes
    ----------
    name
        Name of the block in the network, such as ``residuals.0``.
    convs
        Outputs of its convolutions.
    share
        Its share of the network's multiply-adds.
    """

    name: str
    convs: frozenset[str]
    share: float


def layers(model: onnx.ModelProto) -> tuple[Block, ...]:
    """The convolutions that can be computed in INT8, each as a block of its own."""
    costs = _multiply_adds(model)
    total = sum(costs.values())
    allowed = conv_names(model)
    return tuple(
        Block(_layer_name(node), frozenset(node.output), costs[node.output[0]] / total)
        for node in model.graph.node
        if node.output[0] in allowed
    )


def blocks(model: onnx.ModelProto) -> tuple[Block, ...]:
    """The blocks of convolutions that can be computed in INT8, in graph order."""
    members: dict[str, list[Block]] = {}
    for layer in layers(model):
        members.setdefault(_block_name(layer.name), []).append(layer)
    return tuple(
        Block(name, frozenset().union(*(x.convs for x in parts)), sum(x.share for x in parts))
        for name, parts in members.items()
    )


def _layer_name(node: onnx.NodeProto) -> str:
    """Name of a convolution in the network, from that of its weights."""
    return str(node.input[1]).removesuffix(".weight")


def _block_name(layer: str) -> str:
    """Name of a layer without its last part: ``residuals.0.conv1`` to ``residuals.0``."""
    return layer.rpartition(".")[0] or layer


def _of_one_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network for images of one size, if it takes several; each has the same shares."""
    fixed = copy_of(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dimension in value.type.tensor_type.shape.dim[2:]:
            dimension.dim_value = dimension.dim_value or _ANY_SIDE
    return fixed


def _multiply_adds(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-adds of each convolution for one image, by the name of its output."""
    inferred = shape_inference.infer_shapes(_of_one_size(model), data_prop=True).graph
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    weights = constants_of(model)
    costs = {}
    for node in model.graph.node:
        if node.op_type not in CONVS:
            continue
        size = sizes[node.output[0]]
        pixels = size[1] * size[2] if node.op_type == "MatMul" else size[2] * size[3]
        costs[node.output[0]] = pixels * weights[node.input[1]].size
    return costs
