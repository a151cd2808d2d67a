"""Writing a plan into an ONNX graph as QuantizeLinear and DequantizeLinear nodes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration.plan import (
    LARGEST_WEIGHT,
    Plan,
    QParams,
    Scheme,
    WeightScales,
    within_output,
)
from cnnres_infer.core.arrays import FloatArray
from export.half import in_half
from export.onnx_graph import constants_of, copy_of

# The first in which scales may be float16.
_OPSET_OF_HALF_SCALES = 19


def quantised(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """A copy of a float network, quantised as planned.

    Every quantised activation passes through a QuantizeLinear and a
    DequantizeLinear node. The weights of INT8 convolutions are int8 and symmetric,
    with a scale of the largest magnitude / 127; see `WeightScales`.
    """
    writer = _Writer(model, plan)
    model = in_half(model) if plan.scheme.half else model
    nodes = []
    if plan.qparams(model.graph.input[0].name):
        nodes += writer.quantised_activation(model.graph.input[0].name)
    for node in model.graph.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        # What is rounded after a concatenation is not rounded before it.
        if plan.scheme.all_activations or node.op_type != "Concat":
            copied.input[:] = [writer.renamed.get(name, name) for name in node.input]
        if node.output[0] in plan.convs:
            nodes += writer.in_int8(node, copied)
        else:
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


@dataclass(frozen=True, eq=False)
class WeightSteps:
    """What a convolution's weights are multiples of.

    Attributes
    ----------
    scales
        Scale of each output channel (O,), or a single one ().
    factors
        What the results are multiplied by (O,); None if by nothing.
    """

    scales: NDArray[np.floating[Any]]
    factors: NDArray[np.floating[Any]] | None = None

    @property
    def steps(self) -> FloatArray:
        """The difference between neighbouring weights (O,) or ()."""
        scales = self.scales.astype(np.float32)
        return scales if self.factors is None else scales * self.factors.astype(np.float32)


def weight_steps(node: onnx.NodeProto, weights: FloatArray, scheme: Scheme) -> WeightSteps:
    """The steps of a convolution's weights, as a scheme wants them."""
    largest = np.abs(weights).max(axis=within_output(node)).clip(1e-8)
    scales = (largest / LARGEST_WEIGHT).astype(np.float32)
    if scheme.weight_scales is WeightScales.CHANNELS:
        return WeightSteps(scheme.stored(scales))
    common = scheme.stored(scales.max())
    if scheme.weight_scales is WeightScales.TENSOR:
        return WeightSteps(common)
    # Rounded down, the common scale would leave the largest channel a factor above 1.
    factors = np.minimum(scales / common.astype(np.float32), 1)
    if scheme.weight_scales is WeightScales.POWERS:
        factors = np.exp2(np.ceil(np.log2(factors)))
    return WeightSteps(common, scheme.stored(factors))


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

    def in_int8(self, node: onnx.NodeProto, copied: onnx.NodeProto) -> list[onnx.NodeProto]:
        """A convolution in INT8, with its weights before it and, if it has some, its factors after.

        Parameters
        ----------
        node
            The convolution in the float network.
        copied
            Its copy, which takes quantised images and is changed.
        """
        weights = self.floats[node.input[1]]
        within = within_output(node)
        found = weight_steps(node, weights, self.plan.scheme)
        steps = np.expand_dims(found.steps, within) if found.steps.ndim else found.steps
        codes = np.round(weights / steps).clip(-LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8)
        made = [self._constant(node.input[1], codes, found.scales, axis=0 if within[0] else 1)]
        copied.input[1] = made[-1].output[0]
        if self.plan.scheme.int32_bias and len(node.input) > 2:
            made.append(self._quantised_bias(node, found.steps))
            copied.input[2] = made[-1].output[0]
        made.append(copied)
        if found.factors is not None:
            made += self._scaled(copied, found.factors)
        return made

    def _quantised_bias(self, node: onnx.NodeProto, steps: FloatArray) -> onnx.NodeProto:
        activation = self.plan.qparams(node.input[0])
        assert activation is not None
        scales = (np.float32(activation.scale) * steps).astype(np.float32)
        exact = np.round(self.floats[node.input[2]] / scales)
        bias = exact.clip(-(2**31), 2**31 - 1).astype(np.int32)
        return self._constant(node.input[2], bias, scales)

    def _scaled(
        self, conv: onnx.NodeProto, factors: NDArray[np.floating[Any]]
    ) -> list[onnx.NodeProto]:
        """Multiply a convolution's results by factors of channels, and add its bias after that."""
        output, bias = conv.output[0], list(conv.input[2:])
        conv.output[0] = f"{output}.sums"
        del conv.input[2:]
        names = [f"{output}.factors", f"{output}.offsets"]
        self._store(names[0], factors[:, None, None])
        product = f"{output}.scaled" if bias else output
        nodes = [
            helper.make_node("Mul", [conv.output[0], names[0]], [product], f"{output}.by-factors")
        ]
        if bias:
            self._store(names[1], self.floats[bias[0]].astype(factors.dtype)[:, None, None])
            nodes.append(
                helper.make_node("Add", [product, names[1]], [output], f"{output}.plus-offsets")
            )
        return nodes

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
        """Store a quantised constant with a scale or one for each index of an axis."""
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
