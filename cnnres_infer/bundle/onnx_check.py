"""Whether an ONNX file is whole and keeps all its weights within itself.

A runtime that is handed a model with external data reads whatever files it
names. Message layouts and field numbers after onnx.proto
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
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


def check_model(content: bytes, name: str) -> None:
    """Refuse an ONNX file that is cut off, is none, or refers to other files.

    Raises
    ------
    BundleError
        If it is.
    """
    graphs = 0
    messages = [("model", 0, len(content))]
    while messages:
        kind, at, end = messages.pop()
        while at < end:
            key, at = _varint(content, at, end, name)
            field, wire = key >> 3, key & 7
            value, start, at = _value(content, wire, at, end, name)
            if kind == "tensor" and (
                field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value)
            ):
                raise _refusal(name, "keeps weights in another file")
            inner = _NESTED[kind].get(field)
            if inner and wire == _BYTES:
                messages.append((inner, start, at))
                graphs += inner == "graph" and kind == "model"
    if graphs != 1:
        raise _refusal(name, "holds no network")


def _value(content: bytes, wire: int, at: int, end: int, name: str) -> tuple[int, int, int]:
    """Number, begin and end of a field's value."""
    if wire == _VARINT:
        number, after = _varint(content, at, end, name)
        return number, at, after
    if wire == _BYTES:
        length, at = _varint(content, at, end, name)
    else:
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
    if length < 0 or length > end - at:
        raise _refusal(name, "is cut off or damaged")
    return length, at, at + length


def _varint(content: bytes, at: int, end: int, name: str) -> tuple[int, int]:
    number = 0
    for place in range(min(_LONGEST_VARINT, end - at)):
        byte = content[at + place]
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    raise _refusal(name, "is cut off or damaged")


def _refusal(name: str, fault: str) -> BundleError:
    return BundleError(
        f"{name}: the ONNX file {fault}; export the bundle again", code=ErrorCode.BUNDLE_MODEL
    )
