"""Quantisation plans: which tensors of a network are quantised, and with what parameters.

A plan refers to the tensors and convolutions of the float ONNX graph by name.
`calibration.qdq` writes it into the graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray

from export.onnx_graph import CONVS, attributes_of

LARGEST_WEIGHT = 127
_VALUE_PRESERVING = ("MaxPool", "Resize", "Transpose")


class WeightScales(StrEnum):
    """What the weights of a convolution in INT8 are multiples of, and where that is written.

    With scales of channels, TensorRT-RTX writes sums in float32, which another kernel
    reads, scales and rounds. With a single scale, it writes float16. Factors of
    channels after that cost nothing more: that kernel multiplies by them.
    """

    CHANNELS = "channels"
    TENSOR = "tensor"
    FACTORS = "factors"
    POWERS = "powers"  # factors that are powers of two

    @property
    def has_factors(self) -> bool:
        """Whether there is a single scale, and results are multiplied by factors of channels."""
        return self in (WeightScales.FACTORS, WeightScales.POWERS)


@dataclass(frozen=True)
class Scheme:
    """How one kind of runtime wants a network to be quantised.

    Attributes
    ----------
    variant
        Name in the bundle.
    symmetric
        Whether activations are int8 with zero point 0, rather than uint8 with a
        zero point of their own.
    all_activations
        Whether to quantise every activation between the first and the last
        convolution, for runtimes that fuse whole chains; otherwise only what
        convolutions in INT8 take, and what is added to their results.
    int32_bias
        Whether biases are int32, at the product of the activation's and the
        weight's scale, rather than float.
    weight_scales
        How the scales of weights are chosen and stored.
    half
        Whether all else is in float16 but for the first block and the sigmoid, and
        so are scales; otherwise in float32.
    passes
        Names of the graph rewritings (`export.passes.PASSES`) to apply first, in
        this order: those with which the runtime is fastest.
    """

    variant: str
    symmetric: bool
    all_activations: bool
    int32_bias: bool
    weight_scales: WeightScales
    half: bool
    passes: tuple[str, ...] = ()

    @property
    def qmax(self) -> int:
        """Largest quantised value of an activation."""
        return 127 if self.symmetric else 255

    def stored(self, scales: ArrayLike) -> NDArray[np.floating[Any]]:
        """Scales in the type in which they are stored, and no smaller than its normal numbers."""
        kind = np.float16 if self.half else np.float32
        return np.maximum(scales, np.finfo(kind).tiny).astype(kind)


INT8_CPU = Scheme(
    "int8-cpu",
    symmetric=False,
    all_activations=True,
    int32_bias=True,
    weight_scales=WeightScales.CHANNELS,
    half=False,
    # Batch norms would break the INT8 chains, and upsampling in INT8 is slow.
    passes=("head-before-upsampling", "head-to-matmul", "batch-norms-to-convs"),
)
INT8_TRT = Scheme(
    "int8-trt",
    symmetric=True,
    all_activations=False,
    int32_bias=False,
    weight_scales=WeightScales.TENSOR,
    half=True,
    passes=("head-before-upsampling",),
)
SCHEMES = {scheme.variant: scheme for scheme in (INT8_CPU, INT8_TRT)}


@dataclass(frozen=True)
class QParams:
    """Quantisation parameters of an activation: value = (quantised - zero_point) * scale."""

    scale: float
    zero_point: int

    @classmethod
    def covering(cls, low: float, high: float, scheme: Scheme) -> Self:
        """Parameters whose range covers `low`, `high` and zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        if scheme.symmetric:
            return cls(float(scheme.stored(max(-low, high, 1e-8) / scheme.qmax)), 0)
        scale = max(high - low, 1e-8) / scheme.qmax
        return cls(scale, round(-low / scale))


@dataclass(frozen=True)
class Plan:
    """What is quantised.

    Attributes
    ----------
    scheme
        How the runtime wants it.
    tensors
        The quantised tensors with parameters of their own.
    sharing
        The quantised tensors that share another's parameters, by the name of
        that one: pooling, nearest-neighbour upsampling and concatenation change
        no value.
    rounded
        The quantised tensors whose values have not been rounded before.
    convs
        Outputs of the convolutions that are computed in INT8.
    """

    scheme: Scheme
    tensors: dict[str, QParams]
    sharing: dict[str, str]
    rounded: set[str]
    convs: frozenset[str]

    def qparams(self, tensor: str) -> QParams | None:
        """Parameters of a tensor; None if it stays in float."""
        return self.tensors.get(self.sharing.get(tensor, tensor))


def conv_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """Outputs of the convolutions that can be computed in INT8: all but the first and the head.

    The head is one of them as a matrix product, whose output is not quantised.
    """
    _, *inner, head = (node for node in model.graph.node if node.op_type in CONVS)
    return tuple(n.output[0] for n in (*inner, head) if n is not head or n.op_type == "MatMul")


def is_depthwise(node: onnx.NodeProto) -> bool:
    """Whether each channel has a convolution of its own."""
    return node.op_type == "Conv" and int(attributes_of(node).get("group", 1)) > 1


def within_output(node: onnx.NodeProto) -> tuple[int, ...]:
    """The axes of a convolution's weights along which an output channel's weights lie."""
    return (1, 2, 3) if node.op_type == "Conv" else (0,)


def make_plan(
    model: onnx.ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    scheme: Scheme,
    in_float: frozenset[str] = frozenset(),
) -> Plan:
    """Plan to quantise every convolution that can be.

    Parameters
    ----------
    model
        The float network.
    ranges
        Smallest and largest value to represent in each tensor.
    in_float
        Outputs of further convolutions to keep in float.
    """
    convs = frozenset(conv_names(model)) - in_float
    quantised = _quantised_tensors(model, convs, scheme)
    sharing, carried = _sharing(model, quantised)
    tensors = {t: QParams.covering(*ranges[t], scheme) for t in quantised if t not in sharing}
    return Plan(scheme, tensors, sharing, quantised - carried, convs)


def _sharing(model: onnx.ModelProto, quantised: set[str]) -> tuple[dict[str, str], set[str]]:
    """Which tensors share another's parameters, and which carry values that are rounded already.

    All inputs of a concatenation share its parameters, so that it rounds none again.
    """
    sharing: dict[str, str] = {}
    carried: set[str] = set()
    for node in model.graph.node:
        target = node.output[0]
        sources = [node.input[0]] if node.op_type in _VALUE_PRESERVING else list(node.input)
        if not quantised.issuperset([*sources, target]):
            continue
        if node.op_type in _VALUE_PRESERVING:
            sharing[target] = sharing.get(sources[0], sources[0])
            carried.add(target)
        elif node.op_type == "Concat":
            roots = {sharing.get(name, name) for name in sources}
            sharing |= {name: target for name in quantised if sharing.get(name, name) in roots}
            carried.add(target)
    return sharing, carried


def _quantised_tensors(model: onnx.ModelProto, convs: frozenset[str], scheme: Scheme) -> set[str]:
    """Tensors to quantise if these convolutions are computed in INT8."""
    if scheme.all_activations:
        return _all_activations(model, convs)
    return _taken_in_int8(model, convs)


def _taken_in_int8(model: onnx.ModelProto, convs: frozenset[str]) -> set[str]:
    """What convolutions in INT8 take, and what is added to their results."""
    quantised: set[str] = set()
    for node in model.graph.node:
        if node.output[0] in convs:
            quantised.add(node.input[0])
        elif node.op_type == "Add" and convs.intersection(node.input):
            # The sum is computed with the convolution, whose result needs no rounding.
            quantised |= set(node.input) - convs
    return quantised


def _all_activations(model: onnx.ModelProto, convs: frozenset[str]) -> set[str]:
    """Tensors before the head, except those fused into a convolution or between float nodes."""
    nodes = model.graph.node
    head = max(i for i, node in enumerate(nodes) if node.op_type in CONVS)
    constants = {t.name for t in model.graph.initializer} | {""}
    made_in_float = {model.graph.input[0].name}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
        if _in_float(node, convs, made_in_float | constants):
            made_in_float.add(node.output[0])
    return {
        name
        for name in (model.graph.input[0].name, *(node.output[0] for node in nodes[:head]))
        if any(node.op_type != "Relu" for node in consumers.get(name, []))
        and not (
            name in made_in_float
            and all(node.output[0] in made_in_float for node in consumers.get(name, []))
        )
    }


def _in_float(node: onnx.NodeProto, convs: frozenset[str], floats: set[str]) -> bool:
    """Whether a convolution is kept in float, or another node takes nothing but floats."""
    if node.op_type in CONVS:
        return node.output[0] not in convs
    return all(name in floats for name in node.input)
