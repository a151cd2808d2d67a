import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnres_infer.codes import ErrorCode, Notice, WarningCode
from cnnres_infer.core.failure import Failure
from cnnres_infer.core.grouping import group_names
from cnnres_infer.core.jsonable import dumps, to_json
from cnnres_infer.core.precision import Precision
from cnnres_infer.errors import LimitError


@dataclass(frozen=True)
class Part:
    path: Path
    precisions: tuple[Precision, ...]


@dataclass(frozen=True)
class Whole:
    parts: dict[Precision, Part]
    nothing: None = None

    def to_json(self) -> dict[str, Any]:
        return {"first": 1, **{str(key): part for key, part in self.parts.items()}}


def test_reports_become_plain_json() -> None:
    part = Part(Path("a") / "b", (Precision.INT8, Precision.FP32))
    plain = {"path": str(Path("a") / "b"), "precisions": ["int8", "fp32"]}
    assert to_json(part) == plain
    assert json.loads(dumps([Whole({Precision.BF16: part}), None, 1.5])) == [
        {"first": 1, "bf16": plain},
        None,
        1.5,
    ]
    assert type(to_json(Precision.INT8)) is str
    assert to_json(Notice(WarningCode.MASK_EMPTY, "none")) == {
        "code": "W-MASK-EMPTY",
        "text": "none",
    }


def test_a_failure_tells_code_and_status_but_no_traceback() -> None:
    try:
        raise LimitError("raise `max_memory`", code=ErrorCode.LIMIT_MEMORY)
    except LimitError as error:
        failure = Failure.of(error, str.upper)
    assert to_json(failure) == {
        "type": "LimitError",
        "code": "E-LIMIT-MEMORY",
        "message": "RAISE `MAX_MEMORY`",
        "exit_status": 3,
    }
    assert "test_a_failure_tells" in failure.traceback


def test_what_is_no_error_of_ours_is_a_bug() -> None:
    failure = Failure.of(ZeroDivisionError("x"))
    assert (failure.code, failure.exit_status) == ("E-INTERNAL", 1)
    assert "ZeroDivisionError('x')" in failure.message


def test_names_are_grouped_in_the_order_in_which_they_come() -> None:
    grouped = group_names([("b", 2), ("a", 1), ("c", 2)])
    assert list(grouped.items()) == [(2, ["b", "c"]), (1, ["a"])]
