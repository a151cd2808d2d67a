"""Looking up the attributes of a frame, wherever and however they are stored."""

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Sequences of private or converted attributes that hold what a classic image has at its top.
_NESTED = (0x2005140F, 0x00209170, 0x00209171)
_SHARED, _PER_FRAME = 0x52009229, 0x52009230
_BLOCKS = range(0x10, 0x100)
_BINARY = {"u2": ("<H", 2), "f4": ("<f", 4), "f8": ("<d", 8)}


class View:
    """The attributes of a frame: its own, then those shared by all frames, then the file's.

    Parameters
    ----------
    dataset
        The parsed file.
    index
        Index of the frame in an enhanced file; None for a classic one.
    """

    def __init__(self, dataset: "Dataset", index: int | None = None) -> None:
        self._datasets: list[Dataset] = []
        if index is not None:
            per_frame = items(dataset, _PER_FRAME)
            for group in (*per_frame[index : index + 1], *items(dataset, _SHARED)[:1]):
                self._datasets += [group, *_macros(group)]
        self._datasets.append(dataset)
        if index is None:
            self._datasets += [each for tag in _NESTED for each in items(dataset, tag)[:1]]
            self._datasets += items(dataset, 0x00189117)[:1]

    def get(self, keyword: str) -> Any:
        """Value of a standard attribute; None if it is absent, empty or malformed."""
        for dataset in self._datasets:
            try:
                value = dataset.get(keyword)
            except Exception:
                value = None
            if (
                value is not None
                and value != ""
                and not (hasattr(value, "__len__") and not len(value))
            ):
                return value
        return None

    def text(self, keyword: str) -> str:
        """Value of a standard attribute as text, several values joined; empty if it is absent."""
        value = self.get(keyword)
        if value is None:
            return ""
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            return str(value).strip()
        return "\\".join(str(each).strip() for each in value)

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Values of a standard attribute as finite numbers; None unless there are `count`."""
        return _numbers(self.get(keyword), "text", count)

    def number(self, keyword: str) -> float | None:
        """Value of a standard attribute as a finite number; None if it has none."""
        values = self.numbers(keyword, 1)
        return values[0] if values else None

    def private(self, group: int, element: int, creator: str) -> Any:
        """Value of a private attribute; None if it is absent.

        Parameters
        ----------
        group, element
            Its group, and the lower byte of its element.
        creator
            A part of the private creator's name, in capitals. If the creators of
            the group are lost, the first block is taken.
        """
        for dataset in self._datasets:
            blocks = list(_blocks(dataset, group))
            named = [block for block, name in blocks if creator in name]
            for block in named if blocks else [0x10]:
                value = _raw(dataset, group << 16 | block << 8 | element)
                if value is not None:
                    return value
        return None

    def private_numbers(
        self, group: int, element: int, creator: str, kind: str = "text", count: int = 1
    ) -> tuple[float, ...] | None:
        """The first values of a private attribute as finite numbers.

        Parameters
        ----------
        group, element, creator
            See `private`.
        kind
            How its bytes are coded if its VR is unknown: ``"text"``, ``"u2"``,
            ``"f4"`` or ``"f8"``.
        count
            Number of values.
        """
        return _numbers(self.private(group, element, creator), kind, count, more=True)

    def private_text(self, group: int, element: int, creator: str) -> str:
        """A private attribute as text in capitals; empty if it is absent."""
        value = self.private(group, element, creator)
        if isinstance(value, bytes):
            value = value.decode("latin-1").rstrip("\0 ")
        return "" if value is None else str(value).strip().upper()


def items(dataset: "Dataset", tag: int) -> "list[Dataset]":
    """Items of a sequence; none if it is absent or is no sequence."""
    value = _raw(dataset, tag)
    return list(value) if value is not None and _is_sequence(value) else []


def _macros(group: "Dataset") -> "Iterator[Dataset]":
    """First items of the macros of a functional group, those nested in private ones included."""
    for element in group:
        if _is_sequence(element.value) and len(element.value):
            yield element.value[0]
            yield from (each for tag in _NESTED for each in items(element.value[0], tag)[:1])


def _is_sequence(value: Any) -> bool:
    from pydicom.sequence import Sequence

    return isinstance(value, Sequence)


def _blocks(dataset: "Dataset", group: int) -> Iterator[tuple[int, str]]:
    for block in _BLOCKS:
        name = _raw(dataset, group << 16 | block)
        if name is not None:
            text = name.decode("latin-1") if isinstance(name, bytes) else str(name)
            yield block, text.upper()
        elif block > 0x1F:
            return


def _raw(dataset: "Dataset", tag: int) -> Any:
    try:
        element = dataset.get(tag)
    except Exception:
        return None
    return None if element is None else element.value


def _numbers(value: Any, kind: str, count: int, more: bool = False) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        if isinstance(value, bytes) and kind in _BINARY:
            code, size = _BINARY[kind]
            found = [
                each for (each,) in struct.iter_unpack(code, value[: len(value) // size * size])
            ]
        elif isinstance(value, bytes):
            found = [float(each) for each in value.decode("ascii").rstrip("\0 ").split("\\")]
        elif isinstance(value, str):
            found = [float(each) for each in value.split("\\")]
        elif hasattr(value, "__iter__"):
            found = [float(each) for each in value]
        else:
            found = [float(value)]
    except (TypeError, ValueError, struct.error):
        return None
    if len(found) < count or (len(found) > count and not more):
        return None
    numbers = tuple(found[:count])
    return numbers if all(abs(each) < 1e30 for each in numbers) else None
