"""How results are shown at a prompt: in a line, without voxels."""

from pathlib import Path

import pytest

from cnnres_infer import Case, Modality, Predictor
from cnnres_infer.core.result import Result
from tests.conftest import blob_volume

VOLUME, _ = blob_volume()
GRID = "60 x 70 x 20 voxels of 2.5 x 2.5 x 5 mm"


@pytest.fixture(scope="module")
def result(bright_bundle: Path) -> Result:
    with Predictor.load(bright_bundle, "ort", "fp32", threads=1, self_check=False) as predictor:
        return predictor.predict(VOLUME)


def test_what_holds_arrays_is_shown_in_a_line(result: Result) -> None:
    ml = f"{result.mask.volume_ml:.2f} ml"
    count = len(result.warnings)
    warnings = "1 warning" if count == 1 else f"{count} warnings"
    assert repr(result) == f"<Result of 'blob': 1 lesion of {ml}, {warnings}, {GRID}>"
    assert repr(result.mask) == f"<Mask of {ml}, {GRID}>"
    assert repr(result.probabilities) == f"<Probabilities, {GRID}>"
    assert repr(VOLUME) == f"<Volume 'blob', {GRID}>"


def test_a_case_is_shown_without_voxels() -> None:
    shown = repr(Case(Modality.DWI, VOLUME))
    assert f"volume=<Volume 'blob', {GRID}>" in shown
    assert len(shown) < 300
