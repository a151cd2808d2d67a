"""Float networks in float16, with float32 in the first block and in the sigmoid.

Differences between intensities near 1 may be smaller than float16 resolves, and the
first block has few of the multiply-adds.
"""

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.onnx_graph import copy_of

# What may follow the first convolution within its block.
_OF_FIRST_BLOCK = ("Relu", "MaxPool")


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a float32 network that computes in float16 from the second block to the logits.

    What is cast keeps its name for the nodes that take it.
    """
    result = copy_of(model)
    nodes = list(result.graph.node)
    count = 1 + len(list(takewhile(lambda n: n.op_type in _OF_FIRST_BLOCK, nodes[1:])))
    last = max(i for i, node in enumerate(nodes) if node.op_type == "Sigmoid")
    first, inner, (sigmoid, *rest) = nodes[:count], nodes[count:last], nodes[last:]
    nodes = [*first, _cast_output(first[-1]), *inner, _cast_input(sigmoid), sigmoid, *rest]
    _store_in_half(result.graph, inner, [*first, sigmoid, *rest])
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    onnx.checker.check_model(result, full_check=True)
    return result


def _cast_output(node: onnx.NodeProto) -> onnx.NodeProto:
    (name,) = node.output
    node.output[0] = f"{name}.single"
    kind = TensorProto.FLOAT16
    return helper.make_node("Cast", node.output, [name], f"{name}.to-half", to=kind)


def _cast_input(node: onnx.NodeProto) -> onnx.NodeProto:
    (name,) = node.input
    node.input[0] = f"{name}.single"
    kind = TensorProto.FLOAT
    return helper.make_node("Cast", [name], node.input, f"{name}.to-single", to=kind)


def _store_in_half(
    graph: onnx.GraphProto, inside: Sequence[onnx.NodeProto], outside: Sequence[onnx.NodeProto]
) -> None:
    """Store the float constants of nodes in float16; those that others take too, once more."""
    # The factors of an upsampling are always float32.
    taken = {n for node in inside if node.op_type != "Resize" for n in node.input}
    shared = {n for node in outside for n in node.input}
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or tensor.name not in taken:
            continue
        value = numpy_helper.to_array(tensor).astype(np.float16)
        if tensor.name not in shared:
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
            continue
        name = f"{tensor.name}.half"
        graph.initializer.append(numpy_helper.from_array(value, name))
        for node in inside:
            node.input[:] = [name if each == tensor.name else each for each in node.input]
