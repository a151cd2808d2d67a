"""Writing a plan into a network: the ONNX graph with Q/DQ nodes."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration.plan import Codes, Plan

LARGEST_WEIGHT = 127


def quantised(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Copy of a float network, quantised as planned.

    Every quantised tensor passes through a QuantizeLinear and a
    DequantizeLinear node; weights of its INT8 convolutions are int8 for each
    output channel, rounded to multiples of the largest magnitude / 127.
    """
    writer = _Writer(model, plan)
    nodes = []
    if plan.codes(model.graph.input[0].name):
        nodes += writer.around(model.graph.input[0].name)
    for node in model.graph.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = [writer.renamed.get(name, name) for name in node.input]
        if node.output[0] in plan.convs:
            nodes += writer.weights(node, copied)
        nodes.append(copied)
        if plan.codes(node.output[0]):
            nodes += writer.around(node.output[0])
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    del result.graph.initializer[:]
    del result.graph.value_info[:]
    result.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    stored = [*model.graph.initializer, *writer.initializers]
    result.graph.initializer.extend(t for t in stored if t.name in used)
    onnx.checker.check_model(result, full_check=True)
    return result


def output_axis(node: onnx.NodeProto) -> int:
    """Axis of a convolution's weights that runs over its output channels."""
    return 0 if node.op_type == "Conv" else 1


def weight_steps(weights: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Step between codes for each output channel of a convolution's weights."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights).max(axis=others).clip(1e-8)
    steps: NDArray[np.float32] = (largest / LARGEST_WEIGHT).astype(np.float32)
    return steps


class _Writer:
    """Makes the nodes and constants that a plan adds."""

    def __init__(self, model: onnx.ModelProto, plan: Plan) -> None:
        self.plan = plan
        self.floats = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.initializers: list[onnx.TensorProto] = []
        self.renamed: dict[str, str] = {}
        self._scales: set[str] = set()

    def around(self, tensor: str) -> list[onnx.NodeProto]:
        """Quantise and dequantise a tensor for all that take it."""
        root = self.plan.sharing.get(tensor, tensor)
        scale, zero = self._codes(root, self.plan.tensors[root])
        codes, values = f"{tensor}.codes", f"{tensor}.dequantised"
        self.renamed[tensor] = values
        return [
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [codes], name=f"{tensor}.q"),
            helper.make_node("DequantizeLinear", [codes, scale, zero], [values], f"{tensor}.dq"),
        ]

    def weights(self, node: onnx.NodeProto, copied: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Quantise a convolution's weights, and its bias where the scheme wants it."""
        weights = self.floats[node.input[1]]
        axis = output_axis(node)
        steps = weight_steps(weights, axis)
        divisor = np.expand_dims(steps, [i for i in range(weights.ndim) if i != axis])
        codes = np.round(weights / divisor).astype(np.int8)
        added = [self._constant(node.input[1], codes, steps, axis)]
        copied.input[1] = added[-1].output[0]
        if self.plan.scheme.int32_bias and len(node.input) > 2:
            image = self.plan.codes(node.input[0])
            assert image is not None
            bias_steps = (np.float32(image.scale) * steps).astype(np.float32)
            bias = np.round(self.floats[node.input[2]] / bias_steps)
            bias = bias.clip(-(2**31), 2**31 - 1).astype(np.int32)
            added.append(self._constant(node.input[2], bias, bias_steps))
            copied.input[2] = added[-1].output[0]
        return added

    def _codes(self, name: str, codes: Codes) -> tuple[str, str]:
        scale, zero = f"{name}.scale", f"{name}.zero"
        if name not in self._scales:
            self._scales.add(name)
            kind = np.int8 if self.plan.scheme.symmetric else np.uint8
            self._store(scale, np.array(codes.scale, np.float32))
            self._store(zero, np.array(codes.zero, kind))
        return scale, zero

    def _constant(
        self,
        name: str,
        codes: NDArray[np.signedinteger],
        steps: NDArray[np.float32],
        axis: int = 0,
    ) -> onnx.NodeProto:
        """A constant in codes with a step for each index of an axis."""
        inputs = [f"{name}.codes", f"{name}.scale", f"{name}.zero"]
        for key, value in zip(
            inputs, (codes, steps, np.zeros(len(steps), codes.dtype)), strict=True
        ):
            self._store(key, value)
        return helper.make_node(
            "DequantizeLinear", inputs, [f"{name}.dequantised"], f"{name}.dq", axis=axis
        )

    def _store(self, name: str, value: NDArray[np.generic]) -> None:
        self.initializers.append(numpy_helper.from_array(value, name))
