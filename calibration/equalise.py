"""Cross-layer equalisation: balancing the ranges of channels between activations and weights.

The float network computes the same as before; only its quantisation gets easier.
"""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
import onnx
import torch

from calibration.fake_quant import TorchGraph
from calibration.plan import CONVS
from cnnres_infer.core.arrays import FloatArray
from export.onnx_graph import attributes_of, constants_of, with_constants

# Operators through which a positive factor passes unchanged.
_HOMOGENEOUS = ("Relu", "MaxPool", "Resize", "Transpose")
_LARGEST_FACTOR = 8.0

# A convolution, and the tensor's first channel in its input.
_Consumer: TypeAlias = tuple[onnx.NodeProto, int]


def equalised(model: onnx.ModelProto, images: FloatArray) -> onnx.ModelProto:
    """Scale channels between convolutions so that activations and weights share the range.

    A channel is divided by sqrt(a / w), where a is its largest magnitude on the
    images and w that of the weights it is multiplied by; those weights are
    multiplied by the same factor. Channels that reach a shortcut are left alone.

    Parameters
    ----------
    images
        (N, C, H, W).

    References
    ----------
    M. Nagel et al., "Data-free quantization through weight equalization and
    bias correction", ICCV 2019.
    """
    peaks = _channel_peaks(TorchGraph(model), images)
    constants = {name: value.copy() for name, value in constants_of(model).items()}
    for conv in (node for node in model.graph.node if node.op_type == "Conv"):
        found = list(_consumers(model.graph, conv.output[0], 0))
        consumers = [consumer for consumer in found if consumer is not None]
        if not found or None in found:
            continue
        factors = _factors(peaks[conv.output[0]], constants, consumers)
        constants[conv.input[1]] /= factors[:, None, None, None]
        for name in conv.input[2:]:
            constants[name] /= factors
        for node, first in consumers:
            weights = constants[node.input[1]]
            if _input_first(node):
                weights *= factors.reshape(-1, *(1,) * (weights.ndim - 1))
            else:
                weights[:, first : first + len(factors)] *= factors[:, None, None]
    return with_constants(model, constants)


def _channel_peaks(graph: TorchGraph, images: FloatArray) -> dict[str, FloatArray]:
    """Largest magnitude of each channel after each convolution (and its ReLU, if any)."""
    peaks: dict[str, FloatArray] = {}
    with torch.inference_mode():
        for node, output in graph.walk(torch.from_numpy(images)):
            if node.op_type in ("Conv", "Relu"):
                name = node.output[0] if node.op_type == "Conv" else node.input[0]
                peaks[name] = output.abs().amax(dim=(0, 2, 3)).numpy()
    return peaks


def _factors(
    peaks: FloatArray, constants: Mapping[str, FloatArray], consumers: list[_Consumer]
) -> FloatArray:
    """What to divide each channel by, of geometric mean 1."""
    weights = np.max([_weight_peaks(constants, each, len(peaks)) for each in consumers], axis=0)
    factors = np.sqrt(np.maximum(peaks, 1e-6) / np.maximum(weights, 1e-6))
    factors /= np.exp(np.log(factors).mean())
    clipped: FloatArray = factors.clip(1 / _LARGEST_FACTOR, _LARGEST_FACTOR).astype(np.float32)
    return clipped


def _weight_peaks(
    constants: Mapping[str, FloatArray], consumer: _Consumer, count: int
) -> FloatArray:
    """Largest magnitude of a consumer's weights for each of the channels."""
    node, first = consumer
    input_first = _input_first(node)
    weights = constants[node.input[1]]
    axes = tuple(range(1, weights.ndim)) if input_first else (0, 2, 3)
    largest: FloatArray = np.abs(weights).max(axis=axes)
    return largest if input_first else largest[first : first + count]


def _consumers(graph: onnx.GraphProto, tensor: str, first: int) -> Iterator[_Consumer | None]:
    """Convolutions that consume a tensor; None for every other consumer."""
    for node in graph.node:
        if tensor not in node.input:
            continue
        if node.op_type in CONVS:
            yield node, first
        elif node.op_type in _HOMOGENEOUS or (node.op_type == "Concat" and node.input[0] == tensor):
            yield from _consumers(graph, node.output[0], first)
        else:
            yield None


def _input_first(node: onnx.NodeProto) -> bool:
    """Whether the first axis of the weights runs over the input's channels."""
    return node.op_type != "Conv" or int(attributes_of(node).get("group", 1)) > 1
