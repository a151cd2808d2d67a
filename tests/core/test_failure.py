"""Failures of a process that has run out of memory."""

import traceback

import pytest

from cnnres_infer.cli import app
from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.failure import Failure


def no_memory(*_: object, **__: object) -> None:
    raise MemoryError


def test_a_shortage_of_memory_has_a_reason() -> None:
    failure = Failure.of(MemoryError())
    assert failure.code == ErrorCode.SYSTEM
    assert "not enough memory (none left)" in failure.message
    assert "(1 GB)" in Failure.of(MemoryError("1 GB")).message


def test_an_error_outlives_a_traceback_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traceback, "format_exception", no_memory)
    assert Failure.of(ValueError()).traceback == ""


def test_a_shortage_of_memory_is_told_without_any(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "app", no_memory)
    monkeypatch.setattr(app, "print_error", no_memory)
    monkeypatch.setattr(app, "prepare_streams", lambda: None)
    with pytest.raises(SystemExit) as ended:
        app.run()
    assert ended.value.code == 3
    assert capfd.readouterr().err.startswith("cnnres-infer: E-SYSTEM: not enough memory")
