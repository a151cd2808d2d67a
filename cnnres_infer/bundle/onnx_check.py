"""Checks that an ONNX file is complete and contains all of its weights.

A runtime that loads a model with external data reads any file that the model
names, so such models are refused before a runtime sees them. The protobuf
messages are walked with this module's own parser, since the runtime does not
depend on the onnx package. Field numbers are those of onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import BundleError

_NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}  # fmt: skip
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
# Protobuf wire types (https://protobuf.dev/programming-guides/encoding/).
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


def check_model(content: bytes, name: str) -> None:
    """Check that an ONNX file is complete and does not refer to other files.

    Parameters
    ----------
    content
        Content of the file.
    name
        Name of the file in messages.

    Raises
    ------
    BundleError
        If the file is truncated, is not an ONNX model, or keeps weights in
        other files.
    """
    graphs = 0
    messages = [("model", 0, len(content))]
    while messages:
        kind, position, end = messages.pop()
        while position < end:
            key, position = _varint(content, position, end, name)
            field, wire_type = key >> 3, key & 7
            value, start, position = _value(content, wire_type, position, end, name)
            if kind == "tensor" and (
                field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value)
            ):
                raise _refusal(name, "keeps weights in another file")
            nested = _NESTED[kind].get(field)
            if nested and wire_type == _BYTES:
                messages.append((nested, start, position))
                graphs += nested == "graph" and kind == "model"
    if graphs != 1:
        raise _refusal(name, "contains no network")


def _value(
    content: bytes, wire_type: int, position: int, end: int, name: str
) -> tuple[int, int, int]:
    """Parse a field's value: the number or length, and where the value starts and ends."""
    if wire_type == _VARINT:
        number, after = _varint(content, position, end, name)
        return number, position, after
    if wire_type == _BYTES:
        length, position = _varint(content, position, end, name)
    else:
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire_type, -1)
    if length < 0 or length > end - position:
        raise _refusal(name, "is truncated or damaged")
    return length, position, position + length


def _varint(content: bytes, position: int, end: int, name: str) -> tuple[int, int]:
    """Parse a varint, and return it with the position after it."""
    number = 0
    for i in range(min(_MAX_VARINT_BYTES, end - position)):
        byte = content[position + i]
        number |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return number, position + i + 1
    raise _refusal(name, "is truncated or damaged")


def _refusal(name: str, fault: str) -> BundleError:
    return BundleError(
        f"{name}: the ONNX file {fault}; export the bundle again", code=ErrorCode.BUNDLE_MODEL
    )
