"""Exact rewritings of an ONNX graph, for runtimes that want it in another form."""

import numpy as np
import onnx
from onnx import helper, numpy_helper


def batch_norms_to_convs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write each batch norm as a depth-wise 1x1 convolution.

    y = (x - mean) / sqrt(variance + epsilon) * weight + bias, for each channel.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type != "BatchNormalization":
            continue
        weight, bias, mean, variance = (
            constants[name].astype(np.float64) for name in node.input[1:]
        )
        (epsilon,) = (a.f for a in node.attribute if a.name == "epsilon")
        gain = weight / np.sqrt(variance + epsilon)
        image, name = node.input[0], node.output[0]
        new = {f"{name}.weight": gain[:, None, None, None], f"{name}.bias": bias - mean * gain}
        graph.initializer.extend(
            numpy_helper.from_array(value.astype(np.float32), key) for key, value in new.items()
        )
        node.CopyFrom(
            helper.make_node(
                "Conv",
                [image, *new],
                [name],
                node.name,
                group=len(gain),
                kernel_shape=[1, 1],
            )
        )
    _drop_unused(graph)
    onnx.checker.check_model(result, full_check=True)
    return result


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
