"""Moving range from images to weights, where that changes nothing in float."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from calibration.fake import Graph
from calibration.plan import CONVS
from cnnres_infer.core.arrays import FloatArray

_PASSING = ("Relu", "MaxPool", "Resize", "Transpose")
_LARGEST_CHANGE = 8.0


def equalised(model: onnx.ModelProto, peaks: Mapping[str, FloatArray]) -> onnx.ModelProto:
    """Scale channels between convolutions so that images and weights share the range.

    A channel is divided by sqrt(a / w), a being its largest magnitude and w
    that of the weights which take it; these are multiplied by it. ReLU,
    pooling and upsampling let positive factors through. Channels that reach a
    shortcut stay.

    Parameters
    ----------
    peaks
        Largest magnitude of each channel behind each convolution.

    References
    ----------
    M. Nagel et al., "Data-free quantization through weight equalization and
    bias correction", ICCV 2019.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer}
    for conv in (node for node in model.graph.node if node.op_type == "Conv"):
        takers = list(_takers(model.graph, conv.output[0], 0))
        if not takers or None in takers:
            continue
        weights, biases = constants[conv.input[1]], [constants[name] for name in conv.input[2:]]
        count = len(weights)
        taking = np.max([_taken(constants, t, count) for t in takers if t is not None], axis=0)
        factors = np.sqrt(np.maximum(peaks[conv.output[0]], 1e-6) / np.maximum(taking, 1e-6))
        factors /= np.exp(np.log(factors).mean())
        factors = factors.clip(1 / _LARGEST_CHANGE, _LARGEST_CHANGE).astype(np.float32)
        weights /= factors[:, None, None, None]
        for bias in biases:
            bias /= factors
        for node, first in (t for t in takers if t is not None):
            taken = constants[node.input[1]]
            if _input_first(node):
                taken *= factors.reshape(-1, *(1,) * (taken.ndim - 1))
            else:
                taken[:, first : first + count] *= factors[:, None, None]
    for tensor in result.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name], tensor.name))
    return result


def channel_peaks(graph: Graph, images: FloatArray) -> dict[str, FloatArray]:
    """Largest magnitude of each channel behind each convolution (and its ReLU, if there is one)."""
    peaks: dict[str, FloatArray] = {}
    with torch.inference_mode():
        for node, output in graph.walk(torch.from_numpy(images)):
            if node.op_type in ("Conv", "Relu"):
                name = node.output[0] if node.op_type == "Conv" else node.input[0]
                peaks[name] = output.abs().amax(dim=(0, 2, 3)).numpy()
    return peaks


def _takers(
    graph: onnx.GraphProto, tensor: str, first: int
) -> Iterator[tuple[onnx.NodeProto, int] | None]:
    """Convolutions that take a tensor, with its first channel there; None where others do."""
    for node in graph.node:
        if tensor not in node.input:
            continue
        if node.op_type in CONVS:
            yield node, first
        elif node.op_type in _PASSING or (node.op_type == "Concat" and node.input[0] == tensor):
            yield from _takers(graph, node.output[0], first)
        else:
            yield None


def _input_first(node: onnx.NodeProto) -> bool:
    """Whether the first axis of the weights runs over the input's channels."""
    return node.op_type != "Conv" or any(a.name == "group" and a.i > 1 for a in node.attribute)


def _taken(
    constants: Mapping[str, FloatArray], taker: tuple[onnx.NodeProto, int], count: int
) -> FloatArray:
    node, first = taker
    input_first = _input_first(node)
    weights = constants[node.input[1]]
    axes = tuple(range(1, weights.ndim)) if input_first else (0, 2, 3)
    largest: FloatArray = np.abs(weights).max(axis=axes)
    return largest if input_first else largest[first : first + count]
