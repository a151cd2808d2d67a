"""Messages between processes come back as they were."""

import json
from pathlib import Path

import pytest

from cnnres_infer.cohort.case import CohortCase
from cnnres_infer.cohort.messages import answer, answer_of, case_of, line, settings_of
from cnnres_infer.cohort.segment import Outcome, Status
from cnnres_infer.cohort.settings import Settings
from cnnres_infer.core.case import Modality
from cnnres_infer.errors import BackendUnavailableError, BundleError, EngineRunError
from cnnres_infer.limits import Limits


def test_settings() -> None:
    settings = Settings(
        Path("/out\n"), Path("/b"), "0" * 64, trusted_key=Path("k"), limits=Limits(timeout=2.5)
    )
    assert settings_of(json.loads(line(settings))) == settings
    assert line(settings).count(b"\n") == 1


def test_cases() -> None:
    case = CohortCase(
        "01",
        "a",
        Path("/x/é.nii"),
        Modality.FLAIR,
        brain_mask=Path("m"),
        entities=("run-1",),
        notes=("one", "two"),
    )
    assert case_of(json.loads(line(case))) == case


def test_outcomes() -> None:
    failed = Outcome("a", Status.FAILED, {"code": "E-X"}, traceback="where")
    done = Outcome("b", Status.DONE, None, 1.5, 2, ("W-X", "W-Y"), 0.5)
    for outcome in (failed, done):
        assert answer_of(json.loads(line(answer(outcome)))) == outcome


@pytest.mark.parametrize(
    "error", [BackendUnavailableError("no", "install it"), BundleError("bad"), OSError(2, "gone")]
)
def test_errors(error: Exception) -> None:
    back = answer_of(json.loads(line(answer(error))))
    assert isinstance(back, EngineRunError if isinstance(error, OSError) else type(error))
    assert isinstance(back, Exception)
    assert str(error.args[0]) in str(back) or "gone" in str(back)
