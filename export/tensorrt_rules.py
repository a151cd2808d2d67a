"""What TensorRT demands of an ONNX file, checked before a bundle is written.

The rules are those of strongly typed networks in TensorRT 10.3 to 11 and
TensorRT-RTX, or stricter where versions differ. A file that breaks one may be
refused on the first GPU that it meets, or run there in other types than it was
judged in.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, shape_inference

from cnnres_infer.engines.tensorrt.engine import TensorRtEngine
from cnnres_infer.errors import VerificationError
from export.onnx_graph import attributes_of, constants_of

# The variants that TensorRT reads.
VARIANTS = frozenset(name for names in TensorRtEngine.VARIANTS.values() for name in names)
# The newest that TensorRT 10.3 reads.
LARGEST_OPSET, LARGEST_IR = 20, 10
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
# Their float inputs may be of several types: images, and scales or factors.
_MIXED = {"Cast", "Resize", _QUANTISE, _DEQUANTISE}
# The axis of the output channels in the weights, of nodes that have some.
_CHANNELS = {"Conv": 0, "ConvTranspose": 1}


def check_for_tensorrt(variant: str, content: bytes) -> None:
    """Check an ONNX file by TensorRT's rules.

    Raises
    ------
    VerificationError
        If it breaks one; the message lists all that it breaks.
    """
    broken = list(broken_rules(onnx.load_from_string(content)))
    if broken:
        raise VerificationError(f"variant {variant} is not for TensorRT: {'; '.join(broken)}")


def broken_rules(model: onnx.ModelProto) -> Iterator[str]:
    """Say what TensorRT would refuse in a model, and in which node."""
    graph = _Graph(model)
    yield from _versions(model)
    for node in model.graph.node:
        checks = _OF_QUANTISATION if node.op_type in (_QUANTISE, _DEQUANTISE) else _OF_OTHERS
        for check in checks:
            yield from (
                f"node {node.name!r} ({node.op_type}): {each}" for each in check(node, graph)
            )


@dataclass
class _Graph:
    """A model, with what its tensors are.

    Attributes
    ----------
    types
        The type of each tensor; those that are unknown are missing.
    constants
        The constants, by name.
    producers, consumers
        The node that makes a tensor, and those that take it.
    """

    model: onnx.ModelProto
    types: dict[str, int] = field(init=False)
    constants: Mapping[str, NDArray[Any]] = field(init=False)
    producers: dict[str, onnx.NodeProto] = field(init=False)
    consumers: dict[str, list[onnx.NodeProto]] = field(init=False)

    def __post_init__(self) -> None:
        graph = shape_inference.infer_shapes(self.model, strict_mode=True).graph
        values = (*graph.input, *graph.value_info, *graph.output)
        self.types = {each.name: each.type.tensor_type.elem_type for each in values}
        self.types |= {each.name: each.data_type for each in graph.initializer}
        self.constants = constants_of(self.model)
        self.producers = {name: node for node in graph.node for name in node.output}
        self.consumers = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def type_name(self, tensor: str) -> str:
        kind = self.types.get(tensor, TensorProto.UNDEFINED)
        return str(TensorProto.DataType.Name(kind)).lower()


_Check = Callable[[onnx.NodeProto, _Graph], Iterator[str]]


def _versions(model: onnx.ModelProto) -> Iterator[str]:
    (opset,) = (each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if opset > LARGEST_OPSET:
        yield f"opset {opset} is newer than {LARGEST_OPSET}"
    if model.ir_version > LARGEST_IR:
        yield f"IR version {model.ir_version} is newer than {LARGEST_IR}"


def _same_float_type(node: onnx.NodeProto, graph: _Graph) -> Iterator[str]:
    """Strongly typed networks convert nothing by themselves."""
    if node.op_type not in _MIXED:
        floats = {n: graph.types.get(n) for n in node.input if graph.types.get(n) in _FLOATS}
        if len(set(floats.values())) > 1:
            listed = ", ".join(f"{name} is {graph.type_name(name)}" for name in floats)
            yield f"its inputs differ in type: {listed}"


def _float_bias(node: onnx.NodeProto, graph: _Graph) -> Iterator[str]:
    if node.op_type in _CHANNELS and len(node.input) > 2:
        maker = graph.producers.get(node.input[2])
        if maker is not None and maker.op_type == _DEQUANTISE:
            yield "its bias is quantised"


def _scale_of_the_images_type(node: onnx.NodeProto, graph: _Graph) -> Iterator[str]:
    """The scale has the type of the float tensor, which is the input or the output."""
    real = node.input[0] if node.op_type == _QUANTISE else node.output[0]
    if graph.types.get(real) != graph.types.get(node.input[1]):
        yield (
            f"its scale is {graph.type_name(node.input[1])}, but {real} is {graph.type_name(real)}"
        )


def _normal_scale(node: onnx.NodeProto, graph: _Graph) -> Iterator[str]:
    scale = graph.constants.get(node.input[1])
    if scale is None:
        yield "its scale is no constant"
        return
    least = np.finfo(scale.dtype).tiny
    if not (np.isfinite(scale) & (scale >= least)).all():
        yield f"a scale is {scale.min():.2g}, less than the smallest normal {least:.2g}"


def _zero_zero_point(node: onnx.NodeProto, graph: _Graph) -> Iterator[str]:
    zero = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
    if zero is None:
        yield "it has no constant zero-point"
    elif zero.dtype != np.int8:
        yield f"its zero-point is {zero.dtype}, not int8"
    elif zero.any():
        yield f"its zero-point is {zero[zero != 0][0]}, not 0"


def _explicit_axis(node: onnx.NodeProto, graph: _Graph) -> Iterator[str]:
    scale = graph.constants.get(node.input[1])
    if scale is None or not scale.ndim:
        return
    axis = attributes_of(node).get("axis")
    if axis is None:
        yield "it has a scale for each channel, but no axis"
        return
    for consumer in graph.consumers.get(node.output[0], []):
        expected = _CHANNELS.get(consumer.op_type)
        if expected is not None and consumer.input[1] == node.output[0] and axis != expected:
            yield f"its axis is {axis}, not that of the output channels, {expected}"


_OF_OTHERS: tuple[_Check, ...] = (_same_float_type, _float_bias)
_OF_QUANTISATION: tuple[_Check, ...] = (
    _scale_of_the_images_type,
    _normal_scale,
    _zero_zero_point,
    _explicit_axis,
)
