"""Checks that an ONNX file is a network as this project writes it, and nothing else.

A runtime does much that a bundle has no use for: it reads other files that a
model names, loops, branches, calls functions, and allocates whatever a few bytes
ask for. So a model is parsed before a runtime sees it, and whatever is not known
here is refused. Field numbers are those of onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

import math
import struct
from itertools import chain
from typing import NamedTuple

from cnnres_infer.bundle.protobuf import BYTES, FIXED32, VARINT, Message, NotCanonicalError, Span
from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import BundleError

INPUT, OUTPUT = "images", "probabilities"
# 19 has scales in float16; TensorRT 10.0 reads no newer one.
_OPSETS, _MAX_IR_VERSION = (18, 19), 10
OPERATORS = frozenset(
    {
        "Add", "BatchNormalization", "Cast", "Concat", "Conv", "ConvTranspose", "DepthToSpace",
        "DequantizeLinear", "MatMul", "MaxPool", "Mul", "QuantizeLinear", "Relu", "Resize",
        "Sigmoid", "Slice", "Transpose",
    }
)  # fmt: skip

_ONE_NUMBER, _NUMBERS = (VARINT, False), (VARINT, True)
_ONE_TEXT, _MANY = (BYTES, False), (BYTES, True)
_MODEL = {
    1: _ONE_NUMBER, 2: _ONE_TEXT, 3: _ONE_TEXT, 6: _ONE_TEXT, 7: _ONE_TEXT, 8: _MANY,
}  # fmt: skip
_OPSET = {1: _ONE_TEXT, 2: _ONE_NUMBER}
_GRAPH = {
    1: _MANY, 2: _ONE_TEXT, 5: _MANY, 10: _ONE_TEXT, 11: _MANY, 12: _MANY, 13: _MANY,
}  # fmt: skip
_NODE = {
    1: _MANY, 2: _MANY, 3: _ONE_TEXT, 4: _ONE_TEXT, 5: _MANY, 6: _ONE_TEXT, 7: _ONE_TEXT,
}  # fmt: skip
_ATTRIBUTE = {
    1: _ONE_TEXT, 2: (FIXED32, False), 3: _ONE_NUMBER, 4: _ONE_TEXT, 7: (FIXED32, True),
    8: _NUMBERS, 13: _ONE_TEXT, 20: _ONE_NUMBER,
}  # fmt: skip
_TENSOR = {1: _NUMBERS, 2: _ONE_NUMBER, 8: _ONE_TEXT, 9: _ONE_TEXT, 13: _MANY, 14: _ONE_NUMBER}
_VALUE = {1: _ONE_TEXT, 2: _ONE_TEXT, 3: _ONE_TEXT}
_TYPE, _TENSOR_TYPE = {1: _ONE_TEXT}, {1: _ONE_NUMBER, 2: _ONE_TEXT}
_SHAPE, _DIMENSION = {1: _MANY}, {1: _ONE_NUMBER, 2: _ONE_TEXT}

# Bytes of an element of each type of tensor: float32, uint8, int8, int32, int64, float16.
_ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 10: 2}
_FLOAT = 1
# Attributes are numbers and text: no tensors, graphs, or references to attributes of functions.
_ATTRIBUTE_TYPES = {1, 2, 3, 6, 7}
_IMAGE_DIMENSIONS = 4
# What strides, pads and scales of this project are far below, so that no output is giant.
_MAX_ATTRIBUTE, _MAX_SCALE, _MAX_NODES = 1024, 4.0, 4096


class Constant(NamedTuple):
    """A constant of a network.

    Attributes
    ----------
    name
        Its name.
    element
        The type of its elements, as ONNX numbers it.
    shape
        Its dimensions.
    span
        Where its bytes start and end in the file.
    """

    name: str
    element: int
    shape: tuple[int, ...]
    span: Span


def check_model(content: bytes, name: str) -> None:
    """Check that an ONNX file is a network as this project writes it.

    Parameters
    ----------
    content
        Content of the file.
    name
        Name of the file in messages.

    Raises
    ------
    BundleError
        If the file is truncated or not an ONNX model, keeps weights in other
        files, or holds anything that this project does not write.
    """
    try:
        _check_model(content)
    except NotCanonicalError as error:
        raise BundleError(
            f"{name}: the ONNX file {error}; export the bundle again",
            code=ErrorCode.BUNDLE_MODEL,
        ) from error


def constants_of(content: bytes) -> list[Constant]:
    """The constants of a checked ONNX file, in the order in which they lie there."""
    model = Message(content, (0, len(content)), _MODEL)
    graph = Message(content, model.spans(7)[0], _GRAPH)
    return [_constant(content, span) for span in graph.spans(5)]


def _check_model(content: bytes) -> None:
    model = Message(content, (0, len(content)), _MODEL)
    graphs = model.spans(7)
    if not graphs:
        raise NotCanonicalError("contains no network")
    opsets = [Message(content, span, _OPSET) for span in model.spans(8)]
    versions = [(each.text(1), each.number(2)) for each in opsets]
    if versions not in [[("", each)] for each in _OPSETS] or not (
        1 <= model.number(1) <= _MAX_IR_VERSION
    ):
        known = " or ".join(map(str, _OPSETS))
        raise NotCanonicalError(f"is not of opset {known} alone, or of a later format")
    graph = Message(content, graphs[0], _GRAPH)
    nodes = graph.spans(1)
    if not 1 <= len(nodes) <= _MAX_NODES:
        raise NotCanonicalError("contains no network")
    found = [_constant(content, span) for span in graph.spans(5)]
    constants = {each.name: each.span for each in found}
    for span in nodes:
        _check_node(content, span, constants)
    for spans, expected in ((graph.spans(11), INPUT), (graph.spans(12), OUTPUT)):
        if len(spans) != 1 or _value(content, spans[0]) != (expected, _FLOAT, _IMAGE_DIMENSIONS):
            raise NotCanonicalError(
                f"has other inputs and outputs than {INPUT} and {OUTPUT}, images of float32"
            )
    for span in graph.spans(13):
        _value(content, span)


def _check_node(content: bytes, span: Span, constants: dict[str, Span]) -> None:
    node = Message(content, span, _NODE)
    operator = node.text(4)
    if operator not in OPERATORS or node.text(7):
        raise NotCanonicalError(f"uses the operator {operator!r}, which this project does not")
    for each in node.spans(5):
        attribute = Message(content, each, _ATTRIBUTE)
        if attribute.number(20) not in _ATTRIBUTE_TYPES:
            raise NotCanonicalError("has an attribute that is neither number nor text")
        numbers = (attribute.number(3), *attribute.numbers(8))
        if max(map(abs, numbers)) > _MAX_ATTRIBUTE:
            raise NotCanonicalError(f"has an attribute larger than {_MAX_ATTRIBUTE}")
    if operator == "Resize":
        _check_scales(content, node.texts(1), constants)


def _check_scales(content: bytes, inputs: list[str], constants: dict[str, Span]) -> None:
    scales = inputs[2:3]
    if len(inputs) > 3 or not scales or scales[0] not in constants:
        raise NotCanonicalError("resizes by other means than constant scales")
    start, end = constants[scales[0]]
    count = (end - start) // 4
    if not all(
        0 < scale <= _MAX_SCALE for scale in struct.unpack_from(f"<{count}f", content, start)
    ):
        raise NotCanonicalError(f"resizes by a scale that is not positive or above {_MAX_SCALE:g}")


def _constant(content: bytes, span: Span) -> Constant:
    tensor = Message(content, span, _TENSOR)
    if tensor.spans(13) or tensor.number(14):
        raise NotCanonicalError("keeps weights in another file")
    size = _ELEMENT_BYTES.get(tensor.number(2))
    dims = tensor.numbers(1)
    start, end = (tensor.spans(9) or [(0, 0)])[0]
    if size is None or min(dims, default=0) < 0 or math.prod(dims) * size != end - start:
        raise NotCanonicalError("has a constant whose type or size contradicts its bytes")
    return Constant(tensor.text(8), tensor.number(2), tuple(dims), (start, end))


def _value(content: bytes, span: Span) -> tuple[str, int, int]:
    """Name of a value, its element type, and the number of its dimensions."""
    value = Message(content, span, _VALUE)
    types = [Message(content, each, _TYPE) for each in value.spans(2)]
    tensors = [
        Message(content, each, _TENSOR_TYPE)
        for each in chain.from_iterable(kind.spans(1) for kind in types)
    ]
    shapes = [
        Message(content, each, _SHAPE)
        for each in chain.from_iterable(tensor.spans(2) for tensor in tensors)
    ]
    dimensions = [
        Message(content, each, _DIMENSION)
        for each in chain.from_iterable(shape.spans(1) for shape in shapes)
    ]
    element = tensors[0].number(1) if tensors else 0
    return value.text(1), element, len(dimensions)
