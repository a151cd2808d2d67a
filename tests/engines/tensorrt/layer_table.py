"""The table of compiled layers in TensorRT-RTX's verbose log of a build."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

_ROW = re.compile(
    r"^Name: .*?, LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], TacticName:",
)


@dataclass(frozen=True)
class Layer:
    """A row; the types are those of all tensors of a group, in their order."""

    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def parse(cls, line: str) -> Self | None:
        found = _ROW.match(line)
        if found is None:
            return None
        groups = (found[name] for name in ("inputs", "constants", "outputs"))
        types = (tuple(re.findall(r"Datatype: (\w+)", group)) for group in groups)
        return cls(found["kind"], *types)


def layers(log: Iterable[str]) -> list[Layer]:
    """The rows of all layers."""
    lines = (line for text in log for line in text.splitlines())
    return [layer for line in lines if (layer := Layer.parse(line)) is not None]
