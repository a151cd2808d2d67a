"""Exact rewritings of an ONNX graph, each into a form that some runtimes compute faster."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.onnx_graph import attributes_of, constants_of, copy_of

Constants: TypeAlias = Mapping[str, NDArray[np.generic]]
Pass: TypeAlias = Callable[[onnx.ModelProto], onnx.ModelProto]

# After upsampling by 2, which taps of a 3x3 kernel meet the same pixel of the small image:
# along an axis, for the four taps of a transposed convolution,
TRANSPOSED_TAPS = ((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0))
# and for the two of an odd pixel (which comes first) and the two of an even one.
CORNER_TAPS = ((1, 1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 1))


def batch_norms_to_convs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace each batch norm by a depth-wise 1x1 convolution.

    A batch norm computes y = (x - mean) / sqrt(variance + epsilon) * weight + bias
    for each channel.
    """
    constants = constants_of(model)
    nodes: list[onnx.NodeProto] = []
    added: dict[str, NDArray[np.float64]] = {}
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        weight, bias, mean, variance = (
            constants[name].astype(np.float64) for name in node.input[1:]
        )
        gain = weight / np.sqrt(variance + attributes_of(node)["epsilon"])
        names = _own_names(node, model)
        added |= {names[0]: gain[:, None, None, None], names[1]: bias - mean * gain}
        inputs, name = [node.input[0], *names], node.name
        nodes.append(
            helper.make_node(
                "Conv", inputs, node.output, name, group=len(gain), kernel_shape=[1, 1]
            )
        )
    return _with_nodes(model, nodes, added)


def upsampling_to_transposed_convs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace nearest upsampling by 2 and the 3x3 convolution after it by a transposed one.

    If a skip is concatenated in between, its channels keep a convolution of their
    own, whose output is added. This takes four multiplications instead of nine,
    and the upsampled images are never written.
    """
    constants = constants_of(model)
    producers = {node.output[0]: node for node in model.graph.node}
    nodes: list[onnx.NodeProto] = []
    added: dict[str, NDArray[np.float64]] = {}
    for node in model.graph.node:
        found = _upsampled_input(node, producers, constants)
        if found is None:
            nodes.append(node)
            continue
        image, skips = found
        width = _skip_width(skips, producers, constants)
        new_nodes, new_constants = _transposed(node, image, skips, width, constants)
        nodes += new_nodes
        added |= new_constants
    return _with_nodes(model, nodes, added)


def head_before_upsampling(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute the last block and the head before the last upsampling instead of after it.

    After nearest-neighbour upsampling by 2, the four pixels of a 2x2 square are
    four 2x2 convolutions of the small image, which become four groups of
    channels of a single convolution. The head turns these into four channels;
    interleaved, they are the output with one pixel too many at each edge. This
    takes four multiplications instead of nine, and only probabilities are
    written at full size.
    """
    constants = constants_of(model)
    *nodes, resize, conv, relu, head, sigmoid = model.graph.node
    kinds = [node.op_type for node in (relu, head, sigmoid)]
    if (
        kinds != ["Relu", "Conv", "Sigmoid"]
        or not _is_upsampling(resize, constants)
        or not _is_plain_3x3(conv, constants)
        or constants[head.input[1]].shape[2:] != (1, 1)
    ):
        raise ValueError("the network does not end in upsampling, a 3x3 convolution and a head")
    (weight, bias), (taking, offset) = (_weight_and_bias(each, constants) for each in (conv, head))
    taps = np.array(CORNER_TAPS, np.float64).reshape(2, 2, 3)
    corners = np.einsum("pyr,oirs,qxs->pqoiyx", taps, weight, taps)
    corner_names, head_names = _own_names(conv, model), _own_names(head, model)
    added = {
        corner_names[0]: corners.reshape(4 * len(bias), -1, 2, 2),
        corner_names[1]: np.tile(bias, 4),
        head_names[0]: np.kron(np.eye(4), taking[0, :, 0, 0])[:, :, None, None],
        head_names[1]: np.tile(offset, 4),
        "crop.starts": np.array([1, 1]),
        "crop.ends": np.array([-1, -1]),
        "crop.axes": np.array([2, 3]),
    }
    output, make = sigmoid.output[0], helper.make_node
    separate, whole = f"{output}.separate", f"{output}.whole"
    inputs = [resize.input[0], *corner_names]
    nodes += [
        make("Conv", inputs, conv.output, conv.name, kernel_shape=[2, 2], pads=[1, 1, 1, 1]),
        relu,
        make("Conv", [head.input[0], *head_names], head.output, head.name, kernel_shape=[1, 1]),
        make("Sigmoid", sigmoid.input, [separate], sigmoid.name),
        make("DepthToSpace", [separate], [whole], f"{output}.interleaved", blocksize=2),
        make("Slice", [whole, *list(added)[-3:]], [output], f"{output}.cropped"),
    ]
    return _with_nodes(model, nodes, added)


def head_to_matmul(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the last convolution, a 1x1 one, by a matrix product over the channels.

    ONNX Runtime's 8-bit matrix product has a float result, but its quantised
    convolution rounds the result to 8 bits, which are too few for a probability.
    """
    constants = constants_of(model)
    head = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    weight, bias = _weight_and_bias(head, constants)
    if weight.shape[2:] != (1, 1):
        raise ValueError("the last convolution is not a 1x1 convolution")
    output, make = head.output[0], helper.make_node
    names = [f"{output}.{part}" for part in ("channels-last", "product", "sum")]
    weight_name, bias_name = _own_names(head, model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node is not head:
            nodes.append(node)
            continue
        nodes += [
            make("Transpose", [head.input[0]], names[:1], names[0], perm=[0, 2, 3, 1]),
            make("MatMul", [names[0], weight_name], names[1:2], head.name),
            make("Add", [names[1], bias_name], names[2:], names[2]),
            make("Transpose", names[2:], [output], f"{output}.channels-first", perm=[0, 3, 1, 2]),
        ]
    return _with_nodes(model, nodes, {weight_name: weight[:, :, 0, 0].T, bias_name: bias})


def rewritten(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A network after the named rewritings, applied in order."""
    for name in names:
        model = PASSES[name](model)
    return model


PASSES: dict[str, Pass] = {
    "batch-norms-to-convs": batch_norms_to_convs,
    "head-before-upsampling": head_before_upsampling,
    "head-to-matmul": head_to_matmul,
    "upsampling-to-transposed-convs": upsampling_to_transposed_convs,
}


def _upsampled_input(
    conv: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], constants: Constants
) -> tuple[str, list[str]] | None:
    """The image that is upsampled into a 3x3 convolution, and a skip concatenated to it, if any.

    None if the node is another one, or its input is not upsampled.
    """
    if not _is_plain_3x3(conv, constants):
        return None
    source = producers.get(conv.input[0])
    skips = list(source.input[1:]) if source is not None and source.op_type == "Concat" else []
    resize = producers.get(source.input[0]) if source is not None and skips else source
    if resize is None or len(skips) > 1 or not _is_upsampling(resize, constants):
        return None
    return resize.input[0], skips


def _transposed(
    conv: onnx.NodeProto, image: str, skips: list[str], width: int, constants: Constants
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[np.float64]]]:
    """Nodes and constants that compute a convolution from the image before its upsampling.

    Parameters
    ----------
    width
        Channels of the skip.
    """
    weight, bias = _weight_and_bias(conv, constants)
    output, stem = conv.output[0], conv.input[1].removesuffix(".weight")
    names = [f"{stem}.up.weight", f"{stem}.bias"]
    kernel = _transposed_kernel(weight[:, : weight.shape[1] - width])
    added = {names[0]: kernel, names[1]: bias}
    target = f"{output}.up" if skips else output
    transposed = helper.make_node(
        "ConvTranspose",
        [image, *(names[:1] if skips else names)],
        [target],
        f"{conv.name}.up",
        kernel_shape=[4, 4],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    )
    if not skips:
        return [transposed], added
    names[0], skip = f"{stem}.skip.weight", f"{output}.skip"
    added[names[0]] = weight[:, -width:]
    inputs = [*skips, *names]
    return [
        transposed,
        helper.make_node("Conv", inputs, [skip], skip, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Add", [skip, target], [output], f"{output}.sum"),
    ], added


def _transposed_kernel(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kernel (I, O, 4, 4) of the transposed convolution for a 3x3 one (O, I, 3, 3).

    Along an axis, an even pixel of the result is w[-1] times the pixel before
    its own plus (w[0] + w[1]) times its own; an odd one is (w[-1] + w[0]) times
    its own plus w[1] times the next.
    """
    spread = np.array(TRANSPOSED_TAPS, np.float64)
    kernel: NDArray[np.float64] = np.einsum("ar,oirs,bs->ioab", spread, weight, spread)
    return kernel


def _weight_and_bias(
    conv: onnx.NodeProto, constants: Constants
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    weight = constants[conv.input[1]].astype(np.float64)
    if len(conv.input) < 3:
        return weight, np.zeros(len(weight))
    return weight, constants[conv.input[2]].astype(np.float64)


def _own_names(node: onnx.NodeProto, model: onnx.ModelProto) -> list[str]:
    """Names for a node's new weight and bias.

    They are those in the network, unless another node shares the constant or it is missing.
    """
    uses = Counter(name for each in model.graph.node for name in each.input)
    return [
        given if given and uses[given] == 1 else f"{node.output[0]}.{part}"
        for given, part in zip_longest(node.input[1:3], ("weight", "bias"), fillvalue="")
    ]


def _is_plain_3x3(node: onnx.NodeProto, constants: Constants) -> bool:
    if node.op_type != "Conv" or constants[node.input[1]].shape[2:] != (3, 3):
        return False
    attributes = attributes_of(node)
    return (
        attributes.get("pads") == [1, 1, 1, 1]
        and attributes.get("strides", [1, 1]) == [1, 1]
        and attributes.get("dilations", [1, 1]) == [1, 1]
        and attributes.get("group", 1) == 1
    )


def _is_upsampling(node: onnx.NodeProto, constants: Constants) -> bool:
    if node.op_type != "Resize" or len(node.input) != 3:
        return False
    attributes = attributes_of(node)
    return (
        attributes.get("mode") == b"nearest"
        and attributes.get("nearest_mode") == b"floor"
        and attributes.get("coordinate_transformation_mode") == b"asymmetric"
        and np.array_equal(constants[node.input[2]], [1, 1, 2, 2])
    )


def _skip_width(
    skips: Sequence[str], producers: Mapping[str, onnx.NodeProto], constants: Constants
) -> int:
    """Channels of the skip, from the convolution that made it or its last addend."""
    if not skips:
        return 0
    node = producers[skips[0]]
    while node.op_type != "Conv":
        node = producers[node.input[-1]]
    return int(constants[node.input[1]].shape[0])


def _with_nodes(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], added: Constants
) -> onnx.ModelProto:
    """A copy of a model with other nodes and more constants, and without unused ones."""
    result = copy_of(model)
    graph = result.graph
    del graph.node[:], graph.value_info[:], graph.initializer[:]
    kept = _used(nodes, {value.name for value in graph.output})
    used = {name for node in kept for name in node.input}
    graph.node.extend(kept)
    graph.initializer.extend(
        t for t in model.graph.initializer if t.name in used and t.name not in added
    )
    for name, value in added.items():
        kind = np.float32 if np.issubdtype(value.dtype, np.floating) else np.int64
        constant = np.ascontiguousarray(value, dtype=kind)
        graph.initializer.append(numpy_helper.from_array(constant, name))
    onnx.checker.check_model(result, full_check=True)
    return result


def _used(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the wanted outputs depend on, in graph order."""
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted = wanted.union(node.input)
            kept.append(node)
    return kept[::-1]
