from pathlib import Path

import pytest

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import base
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.errors import EngineRunError, PrecisionUnavailableError
from cnnres_infer.host import cache
from cnnres_infer.selection import autotune as speed
from tests.conftest import BundleMaker

FILE = "model.fp32.onnx"
VARIANTS = ("fp16", "int8-trt", "int8-cpu", "fp32")


@pytest.fixture
def bundle(make_bundle: BundleMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv(cache.FOLDER, str(tmp_path))
    monkeypatch.setattr(speed, "probe", lambda _name: base.Probe(True, "a GPU"))
    return Bundle.open(make_bundle(variants=dict.fromkeys(VARIANTS, FILE)))


def times(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> list[str]:
    """Replace the measurement; returns what was measured."""
    measured: list[str] = []

    def time(_bundle: Bundle, _name: str, precision: str, _threads: object) -> float:
        measured.append(precision)
        if precision == "bf16" and "bf16" not in seconds:
            raise PrecisionUnavailableError("this processor has no bfloat16")
        if precision not in seconds:
            raise EngineRunError("it does not run")
        return seconds[precision]

    monkeypatch.setattr(speed, "_time", time)
    return measured


def test_int8_has_to_earn_its_place(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, fp16=1.0, int8=1.1)
    assert speed.fastest_first(bundle, "tensorrt") == ("fp16", "int8", "fp32")


@pytest.mark.parametrize(("fp16", "first"), [(1.04, "fp16"), (1.06, "int8")])
def test_int8_has_to_be_clearly_faster(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, fp16: float, first: str
) -> None:
    times(monkeypatch, fp16=fp16, int8=1.0)
    assert speed.fastest_first(bundle, "tensorrt")[0] == first


def test_the_faster_comes_first_and_is_remembered(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = times(monkeypatch, fp16=1.0, int8=0.9)
    for _ in range(3):
        assert speed.fastest_first(bundle, "tensorrt") == ("int8", "fp16", "fp32")
    assert measured == ["fp16", "int8"]
    monkeypatch.setattr(speed, "probe", lambda _name: base.Probe(True, "another GPU"))
    speed.fastest_first(bundle, "tensorrt")
    assert measured == ["fp16", "int8"] * 2


def test_what_does_not_run_is_tried_once(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = times(monkeypatch, fp16=1.0)
    for _ in range(2):
        assert speed.fastest_first(bundle, "tensorrt") == ("fp16", "int8", "fp32")
    assert measured == ["fp16", "int8"]


def test_where_nothing_runs_the_next_start_tries_again(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = times(monkeypatch)
    for _ in range(2):
        assert speed.fastest_first(bundle, "tensorrt") == ("fp16", "int8", "fp32")
    assert measured == ["fp16", "int8"] * 2


def test_bfloat16_may_beat_int8_on_a_processor(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, bf16=0.5, int8=1.0)
    assert speed.fastest_first(bundle, "openvino") == ("bf16", "int8", "fp32")


def test_what_a_processor_lacks_is_tried_once(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = times(monkeypatch, int8=1.0)
    for _ in range(2):
        assert speed.fastest_first(bundle, "openvino") == ("int8", "bf16", "fp32")
    assert measured == ["int8", "bf16"]


def test_nothing_is_measured_where_there_is_no_choice(
    bundle: Bundle, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = times(monkeypatch)
    assert speed.fastest_first(bundle, "ort") == ("int8", "fp32")
    assert speed.fastest_first(Bundle.open(bright_bundle), "tensorrt") == ("fp32",)
    assert measured == []


def test_a_measurement_is_of_real_runs(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_SECONDS_EACH", 0)
    seconds = speed.measured(bundle, "ort", [Precision.FP32], 1)
    assert 0 < seconds[Precision.FP32] < 10


def test_what_is_timed_is_not_blank(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_SECONDS_EACH", 0)
    timed, run = [], OrtEngine.run

    def noted(engine: OrtEngine, images: FloatArray) -> FloatArray:
        timed.append(images)
        return run(engine, images)

    monkeypatch.setattr(OrtEngine, "run", noted)
    speed.measured(bundle, "ort", [Precision.FP32], 1)
    assert len(timed) > 1
    assert all(0.4 < images.mean() < 0.6 for images in timed)
