"""Writing a plan into an ONNX graph as QuantizeLinear and DequantizeLinear nodes."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration.plan import LARGEST_WEIGHT, Plan, QParams, Scheme, within_output
from cnnres_infer.core.arrays import FloatArray
from export.half import in_half
from export.onnx_graph import constants_of, copy_of

# The first in which scales may be float16.
_OPSET_OF_HALF_SCALES = 19


def quantised(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """A copy of a float network, quantised as planned.

    Every quantised activation passes through a QuantizeLinear and a
    DequantizeLinear node. The weights of INT8 convolutions are int8 and symmetric,
    with a scale of the largest magnitude / 127, of each output channel or of all.
    """
    writer = _Writer(model, plan)
    model = in_half(model) if plan.scheme.half else model
    nodes = []
    if plan.qparams(model.graph.input[0].name):
        nodes += writer.quantised_activation(model.graph.input[0].name)
    for node in model.graph.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = [writer.renamed.get(name, name) for name in node.input]
        if node.output[0] in plan.convs:
            nodes += writer.quantised_weights(node, copied)
        nodes.append(copied)
        if plan.qparams(node.output[0]):
            nodes += writer.quantised_activation(node.output[0])
    result = copy_of(model)
    del result.graph.node[:]
    del result.graph.initializer[:]
    del result.graph.value_info[:]
    result.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    stored = [*model.graph.initializer, *writer.initializers]
    result.graph.initializer.extend(t for t in stored if t.name in used)
    if plan.scheme.half:
        result.opset_import[0].version = _OPSET_OF_HALF_SCALES
    onnx.checker.check_model(result, full_check=True)
    return result


def weight_scales(node: onnx.NodeProto, weights: FloatArray, scheme: Scheme) -> FloatArray:
    """Scale of a convolution's weights: one for each output channel, or a single number."""
    within = within_output(node) if scheme.per_channel else None
    largest = np.abs(weights).max(axis=within).clip(1e-8)
    return scheme.stored((largest / LARGEST_WEIGHT).astype(np.float32))


class _Writer:
    """Makes the nodes and constants that a plan adds to a model."""

    def __init__(self, model: onnx.ModelProto, plan: Plan) -> None:
        self.plan = plan
        self.floats = constants_of(model)
        self.initializers: list[onnx.TensorProto] = []
        self.renamed: dict[str, str] = {}
        self._stored: set[str] = set()

    def quantised_activation(self, tensor: str) -> list[onnx.NodeProto]:
        """Quantise and dequantise a tensor for all of its consumers."""
        root = self.plan.sharing.get(tensor, tensor)
        scale, zero = self._qparams(root, self.plan.tensors[root])
        codes, values = f"{tensor}.codes", f"{tensor}.dequantised"
        self.renamed[tensor] = values
        return [
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [codes], name=f"{tensor}.q"),
            helper.make_node("DequantizeLinear", [codes, scale, zero], [values], f"{tensor}.dq"),
        ]

    def quantised_weights(
        self, node: onnx.NodeProto, copied: onnx.NodeProto
    ) -> list[onnx.NodeProto]:
        """Quantise a convolution's weights, and its bias if the scheme wants it."""
        weights = self.floats[node.input[1]]
        within = within_output(node)
        scales = weight_scales(node, weights, self.plan.scheme)
        steps = (np.expand_dims(scales, within) if scales.ndim else scales).astype(np.float32)
        codes = np.round(weights / steps).clip(-LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8)
        added = [self._constant(node.input[1], codes, scales, axis=0 if within[0] else 1)]
        copied.input[1] = added[-1].output[0]
        if self.plan.scheme.int32_bias and len(node.input) > 2:
            activation = self.plan.qparams(node.input[0])
            assert activation is not None
            bias_scales = (np.float32(activation.scale) * scales).astype(np.float32)
            exact = np.round(self.floats[node.input[2]] / bias_scales)
            bias = exact.clip(-(2**31), 2**31 - 1).astype(np.int32)
            added.append(self._constant(node.input[2], bias, bias_scales))
            copied.input[2] = added[-1].output[0]
        return added

    def _qparams(self, name: str, qparams: QParams) -> tuple[str, str]:
        """Names of the constants of a tensor's parameters, which are stored once."""
        scale, zero = f"{name}.scale", f"{name}.zero"
        if name not in self._stored:
            self._stored.add(name)
            kind = np.int8 if self.plan.scheme.symmetric else np.uint8
            self._store(scale, self.plan.scheme.stored(np.float32(qparams.scale)))
            self._store(zero, np.array(qparams.zero_point, kind))
        return scale, zero

    def _constant(
        self,
        name: str,
        codes: NDArray[np.signedinteger],
        scales: NDArray[np.floating[Any]],
        axis: int = 0,
    ) -> onnx.NodeProto:
        """Store a quantised constant with a scale, or one for each index of an axis; dequantise it."""
        inputs = [f"{name}.codes", f"{name}.scale", f"{name}.zero"]
        zeros = np.zeros(scales.shape, codes.dtype)
        for key, value in zip(inputs, (codes, scales, zeros), strict=True):
            self._store(key, value)
        axes = {"axis": axis} if scales.ndim else {}
        return helper.make_node(
            "DequantizeLinear", inputs, [f"{name}.dequantised"], f"{name}.dq", **axes
        )

    def _store(self, name: str, value: NDArray[np.generic]) -> None:
        self.initializers.append(numpy_helper.from_array(value, name))
