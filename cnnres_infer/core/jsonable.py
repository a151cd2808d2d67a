"""Reports as JSON."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any


def to_json(value: Any) -> Any:
    """What JSON can hold, made of a report.

    A dataclass becomes a dictionary of its fields, or of what its own method
    ``to_json`` returns; enums and paths become strings, tuples lists.
    """
    if callable(own := getattr(value, "to_json", None)):
        return to_json(own())
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(each) for each in value]
    if isinstance(value, Enum):
        return to_json(value.value)
    return str(value) if isinstance(value, PurePath) else value


def dumps(value: Any) -> str:
    """The indented JSON of a report."""
    return json.dumps(to_json(value), indent=2)
