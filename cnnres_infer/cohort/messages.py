"""What processes of a cohort tell one another: lines of JSON, which can hold nothing that runs."""

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from cnnres_infer.codes import ErrorCode
from cnnres_infer.cohort.case import CohortCase
from cnnres_infer.cohort.segment import Outcome, Status
from cnnres_infer.cohort.settings import Settings
from cnnres_infer.core.case import Modality
from cnnres_infer.core.failure import Failure
from cnnres_infer.core.jsonable import to_json
from cnnres_infer.errors import CnnresError, EngineRunError
from cnnres_infer.limits import Limits

_PATHS = {"out", "bundle", "trusted_key", "volume", "flair", "adc", "b0", "brain_mask"}


def line(message: Any) -> bytes:
    """A message as a line."""
    return f"{json.dumps(to_json(message))}\n".encode()


def settings_of(content: dict[str, Any]) -> Settings:
    """Settings, as `line` wrote them."""
    return Settings(**{**_with_paths(content), "limits": Limits(**content["limits"])})


def case_of(content: dict[str, Any]) -> CohortCase:
    """A case, as `line` wrote it."""
    lists = {name: tuple(content[name]) for name in ("entities", "sources", "notes")}
    modality = Modality.parse(content["modality"])
    return CohortCase(**{**_with_paths(content), **lists, "modality": modality})


def answer(value: Outcome | Exception) -> dict[str, Any]:
    """An outcome, or the error of a process that cannot segment at all."""
    if isinstance(value, Outcome):
        return {"outcome": {each.name: getattr(value, each.name) for each in fields(value)}}
    return {"error": Failure.of(value)}


def answer_of(content: dict[str, Any]) -> Outcome | CnnresError:
    """What `answer` made a message of."""
    if "outcome" in content:
        outcome = content["outcome"]
        status, warnings = Status(outcome["status"]), tuple(outcome["warnings"])
        return Outcome(**{**outcome, "status": status, "warnings": warnings})
    failure = content["error"]
    kinds = {kind.__name__: kind for kind in _with_subclasses(CnnresError)}
    # Constructors of the subclasses differ, so none is called.
    kind = kinds.get(failure["type"], EngineRunError)
    error = kind.__new__(kind, failure["message"])
    error.code = next(code for code in ErrorCode if code == failure["code"])
    return error


def _with_paths(content: dict[str, Any]) -> dict[str, Any]:
    return {
        name: Path(value) if name in _PATHS and value is not None else value
        for name, value in content.items()
    }


def _with_subclasses(kind: type[CnnresError]) -> Iterator[type[CnnresError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _with_subclasses(each)
