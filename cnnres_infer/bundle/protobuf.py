"""Strict parsing of protobuf's wire format: what two parsers could read differently is refused.

See https://protobuf.dev/programming-guides/encoding/. A message is canonical here
if all of its fields are known, in ascending order and of the expected type, those
that are not repeated occur once, and no number is longer than it has to be.
"""

from collections.abc import Mapping
from typing import TypeAlias

VARINT, BYTES, FIXED32 = 0, 2, 5
# Wire type of each field, and whether it is repeated.
Schema: TypeAlias = Mapping[int, tuple[int, bool]]
# A number, or where the value starts and ends.
Span: TypeAlias = tuple[int, int]

_FIXED32_BYTES = 4
_MAX_TAG = 1 << 32
_MAX_NUMBER = 1 << 64


class NotCanonicalError(ValueError):
    """What is no canonical message; the text says in what way."""


class Message:
    """The fields of a message.

    Parameters
    ----------
    content
        The bytes that hold it.
    span
        Where it starts and ends.
    schema
        The fields that it may have.

    Raises
    ------
    NotCanonicalError
        If it is truncated or not canonical, or has other fields.
    """

    def __init__(self, content: bytes, span: Span, schema: Schema) -> None:
        self._content = content
        self._numbers: dict[int, list[int]] = {}
        self._spans: dict[int, list[Span]] = {}
        position, end = span
        last = 0
        while position < end:
            tag, position = _varint(content, position, end)
            field, wire = tag >> 3, tag & 7
            if tag >= _MAX_TAG or field not in schema:
                raise NotCanonicalError(f"has an unknown field {field}")
            expected, repeated = schema[field]
            if wire != expected:
                raise NotCanonicalError(f"encodes field {field} in an unusual way")
            if field < last or (field == last and not repeated):
                raise NotCanonicalError(f"repeats or misplaces field {field}")
            last = field
            if wire == VARINT:
                number, position = _varint(content, position, end)
                self._numbers.setdefault(field, []).append(number)
                continue
            length = _FIXED32_BYTES
            if wire == BYTES:
                length, position = _varint(content, position, end)
            if length > end - position:
                raise NotCanonicalError("is truncated")
            self._spans.setdefault(field, []).append((position, position + length))
            position += length

    def number(self, field: int) -> int:
        """The number in a field, 0 without it."""
        return self.numbers(field)[0] if field in self._numbers else 0

    def numbers(self, field: int) -> list[int]:
        """All numbers in a repeated field; negative ones as they are."""
        signed = _MAX_NUMBER >> 1
        found = self._numbers.get(field, [])
        return [each - _MAX_NUMBER if each >= signed else each for each in found]

    def spans(self, field: int) -> list[Span]:
        """Where the values of a repeated field lie."""
        return self._spans.get(field, [])

    def text(self, field: int) -> str:
        """The text in a field, empty without it."""
        return (self.texts(field) or [""])[0]

    def texts(self, field: int) -> list[str]:
        """All texts in a repeated field."""
        try:
            return [self._content[start:end].decode() for start, end in self.spans(field)]
        except UnicodeDecodeError as error:
            raise NotCanonicalError("holds text that is not UTF-8") from error


def _varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    """Parse a number, and return it with the position after it."""
    number, shift = 0, 0
    while position < end:
        byte = content[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if number >= _MAX_NUMBER:
            break
        if byte < 0x80:
            if not byte and shift > 7:
                raise NotCanonicalError("has a number that is longer than it has to be")
            return number, position
    raise NotCanonicalError("is truncated or damaged")
