"""Which tensors of a network are quantised, and how: the plan that all else follows.

The network is its float ONNX graph. A plan names tensors and convolutions of
it; `calibration.qdq` writes it into the graph, `calibration.fake` computes it
in PyTorch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import onnx

_PASSING = ("MaxPool", "Resize", "Transpose")
CONVS = ("Conv", "ConvTranspose", "MatMul")


@dataclass(frozen=True)
class Scheme:
    """The form that one kind of runtime wants.

    Attributes
    ----------
    variant
        Name in the bundle.
    symmetric
        Images as int8 about zero, not as uint8 with a zero point.
    everywhere
        Quantise all images between the first and the last convolution, as a
        runtime wants that fuses whole chains; otherwise those that a
        convolution takes.
    residuals
        Quantise what the shortcuts' additions take as well.
    int32_bias
        Biases as int32 in steps of image times weight, not float.
    passes
        Names of the rewritings of the float network that come first, in their
        order (`export.passes.PASSES`): those with which the runtime is fastest.
    """

    variant: str
    symmetric: bool
    everywhere: bool
    residuals: bool
    int32_bias: bool
    passes: tuple[str, ...] = ()

    @property
    def lowest(self) -> int:
        """Smallest code of an image."""
        return -128 if self.symmetric else 0

    @property
    def highest(self) -> int:
        """Largest code of an image."""
        return 127 if self.symmetric else 255


INT8_CPU = Scheme(
    "int8-cpu",
    symmetric=False,
    everywhere=True,
    residuals=True,
    int32_bias=True,
    # Chains stay in 8 bits only without batch norms, and upsampling in 8 bits is slow.
    passes=("head-before-upsampling", "head-to-matmul", "batch-norms-to-convs"),
)
INT8_TRT = Scheme("int8-trt", symmetric=True, everywhere=False, residuals=False, int32_bias=False)
SCHEMES = {scheme.variant: scheme for scheme in (INT8_CPU, INT8_TRT)}


@dataclass(frozen=True)
class Codes:
    """How the images of one tensor are written in 8 bits: value = (code - zero) * scale."""

    scale: float
    zero: int

    @classmethod
    def spanning(cls, low: float, high: float, scheme: Scheme) -> Self:
        """Codes whose span takes in `low`, `high` and zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        if scheme.symmetric:
            return cls(max(-low, high, 1e-8) / scheme.highest, 0)
        scale = max(high - low, 1e-8) / scheme.highest
        return cls(scale, round(-low / scale))


@dataclass(frozen=True)
class Plan:
    """What is quantised.

    Attributes
    ----------
    scheme
        The form.
    tensors
        Codes of each quantised tensor that has its own.
    sharing
        Quantised tensors that have another's codes, since pooling and nearest
        upsampling change no value.
    convs
        Outputs of the convolutions that compute in INT8.
    """

    scheme: Scheme
    tensors: dict[str, Codes]
    sharing: dict[str, str]
    convs: frozenset[str]

    def codes(self, tensor: str) -> Codes | None:
        """Codes of a tensor, None if it stays in float."""
        return self.tensors.get(self.sharing.get(tensor, tensor))

    def with_codes(self, tensors: Mapping[str, Codes]) -> Self:
        """Take other codes for the same tensors."""
        return replace(self, tensors=dict(tensors))


def conv_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """Outputs of the convolutions that may compute in INT8: not a head whose result is rounded."""
    layers = [n for n in model.graph.node if n.op_type in CONVS]
    return tuple(n.output[0] for n in layers if n is not layers[-1] or n.op_type == "MatMul")


def make_plan(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]], scheme: Scheme
) -> Plan:
    """Plan the quantisation of all of a network but its head.

    Parameters
    ----------
    model
        The float network.
    ranges
        Smallest and largest value to be told apart in each tensor.
    """
    return _plan(
        model, frozenset(conv_names(model)), scheme, lambda t: Codes.spanning(*ranges[t], scheme)
    )


def spared(model: onnx.ModelProto, plan: Plan, in_float: frozenset[str]) -> Plan:
    """The same plan with some convolutions (their outputs) left in float."""

    def codes(tensor: str) -> Codes:
        known = plan.codes(tensor)
        assert known is not None
        return known

    return _plan(model, plan.convs - in_float, plan.scheme, codes)


def _plan(
    model: onnx.ModelProto, convs: frozenset[str], scheme: Scheme, codes: Callable[[str], Codes]
) -> Plan:
    chosen = _chosen(model, convs, scheme)
    sharing: dict[str, str] = {}
    for node in model.graph.node:
        source, target = node.input[0], node.output[0]
        if node.op_type in _PASSING and source in chosen and target in chosen:
            sharing[target] = sharing.get(source, source)
    tensors = {name: codes(name) for name in chosen if name not in sharing}
    return Plan(scheme, tensors, sharing, convs)


def _chosen(model: onnx.ModelProto, convs: frozenset[str], scheme: Scheme) -> set[str]:
    """Tensors to quantise when these convolutions compute in INT8."""
    chosen = _all_tensors(model, convs) if scheme.everywhere else _conv_inputs(model, convs)
    if scheme.residuals and not scheme.everywhere:
        chosen |= {name for n in model.graph.node if n.op_type == "Add" for name in n.input}
    return chosen


def _conv_inputs(model: onnx.ModelProto, convs: frozenset[str]) -> set[str]:
    return {n.input[0] for n in model.graph.node if n.output[0] in convs}


def _all_tensors(model: onnx.ModelProto, convs: frozenset[str]) -> set[str]:
    """Tensors before the head, but for what a convolution fuses and what stays among floats."""
    nodes = model.graph.node
    head = max(i for i, node in enumerate(nodes) if node.op_type in CONVS)
    constants = {t.name for t in model.graph.initializer} | {""}
    made_in_float = {model.graph.input[0].name}
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            takers.setdefault(name, []).append(node)
        if _in_float(node, convs, made_in_float | constants):
            made_in_float.add(node.output[0])
    return {
        name
        for name in (model.graph.input[0].name, *(node.output[0] for node in nodes[:head]))
        if any(node.op_type != "Relu" for node in takers.get(name, []))
        and not (
            name in made_in_float
            and all(node.output[0] in made_in_float for node in takers.get(name, []))
        )
    }


def _in_float(node: onnx.NodeProto, convs: frozenset[str], floats: set[str]) -> bool:
    """Whether a convolution is left in float, or another node takes nothing but floats."""
    if node.op_type in CONVS:
        return node.output[0] not in convs
    return all(name in floats for name in node.input)
