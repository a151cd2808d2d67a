"""Looking up the attributes of a frame, wherever and however they are stored."""

import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Sequences of private or converted attributes that hold what a classic image has at its top.
_NESTED = (0x2005140F, 0x00209170, 0x00209171, 0x00189117, 0x00409096)
_SHARED, PER_FRAME = 0x52009229, 0x52009230
_BLOCKS = range(0x10, 0x100)
_BINARY = {"u2": ("<H", 2), "f4": ("<f", 4), "f8": ("<d", 8)}


class View:
    """The attributes of a frame: its own, then those shared by all frames, then the file's.

    Parameters
    ----------
    dataset
        The parsed file.
    groups
        The functional groups of the frame and those shared, in an enhanced file.
    """

    def __init__(self, dataset: "Dataset", groups: "Sequence[Dataset]" = ()) -> None:
        self._root = dataset
        self._datasets: list[Dataset] = []
        for group in groups:
            self._datasets += [group, *_macros(group)]
        self._datasets.append(dataset)
        if not groups:
            self._datasets += [each for tag in _NESTED for each in items(dataset, tag)[:1]]

    @classmethod
    def of_frames(cls, dataset: "Dataset") -> "Iterator[View]":
        """The view of each frame of an enhanced file."""
        shared = items(dataset, _SHARED)[:1]
        for group in items(dataset, PER_FRAME):
            yield cls(dataset, [group, *shared])

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
        # The name of a person can be iterated over as well, by its characters.
        if isinstance(value, str) or not isinstance(value, Sequence):
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
            A part of the private creator's name, in capitals; empty for any. If the
            creators of the group are lost, the first block is taken.
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

    def csa_numbers(self, name: str, count: int = 1) -> tuple[float, ...] | None:
        """The first values of a tag of Siemens' own image header as finite numbers."""
        return _numbers(self._csa.get(name), "text", count, more=True)

    def csa_text(self, name: str) -> str:
        """A tag of Siemens' own image header as text in capitals; empty if it is absent."""
        return str((self._csa.get(name) or [""])[0]).strip().upper()

    @cached_property
    def _csa(self) -> dict[str, Any]:
        """Values of Siemens' own image header; empty if it is absent or unreadable."""
        if self.private(0x0029, 0x10, "SIEMENS CSA HEADER") is None:
            return {}
        # Importing it warns.
        from nibabel.nicom.csareader import CSAReadError, get_csa_header

        try:
            header = get_csa_header(self._root, "image")
        except (CSAReadError, ValueError, TypeError, KeyError, IndexError, MemoryError):
            return {}
        tags = {} if header is None else header["tags"]
        return {name: tag["items"] for name, tag in tags.items() if tag["items"]}


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
    """The private blocks of a group, and the names of their creators in capitals."""
    for tag in sorted(each for each in dataset.keys() if each >> 16 == group):  # noqa: SIM118
        if tag & 0xFFFF in _BLOCKS:
            name = _raw(dataset, tag)
            text = name.decode("latin-1") if isinstance(name, bytes) else str(name)
            yield tag & 0xFFFF, text.upper()


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
