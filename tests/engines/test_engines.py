import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import BACKENDS, backend
from cnnres_infer.engines.base import ModelFile
from cnnres_infer.engines.onnxruntime.cpu import DISTRIBUTIONS, OrtEngine
from cnnres_infer.errors import BackendUnavailableError, UsageError
from cnnres_infer.selection.offers import open_engine
from tests.conftest import BundleMaker, bright_model

IMAGES = np.random.default_rng(0).random((5, 1, 160, 160), np.float32)
EXPECTED = 1 / (1 + np.exp(-60 * (IMAGES - 0.8)))


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_keeps_the_protocol(name: str) -> None:
    probe = backend(name).probe()
    assert probe.reason
    assert probe.usable or probe.remedy


def test_run(bright_bundle: Path) -> None:
    with open_engine(Bundle.open(bright_bundle), "ort", "fp32", threads=1) as engine:
        output = engine.run(IMAGES)
        np.testing.assert_allclose(output, EXPECTED, atol=1e-5)
        assert output.dtype == np.float32
        np.testing.assert_allclose(engine.run(IMAGES[:1]), EXPECTED[:1], atol=1e-5)
        info = engine.describe()
    assert (info.backend, info.provider, info.precision) == ("ort", "CPUExecutionProvider", "fp32")
    assert info.threads == 1
    (installed,) = info.versions.keys() & set(DISTRIBUTIONS)
    assert info.versions[installed] == onnxruntime.__version__


def test_unknown_names_are_refused(bright_bundle: Path) -> None:
    bundle = Bundle.open(bright_bundle)
    with pytest.raises(UsageError, match=r"choose from auto, tensorrt, .*ort"):
        open_engine(bundle, "abacus", "fp32")
    with pytest.raises(BackendUnavailableError, match="fp32"):
        open_engine(bundle, "ort", "fp8")


def test_float16_is_not_run_as_float32(make_bundle: BundleMaker) -> None:
    bundle = Bundle.open(make_bundle(variants={"fp16": "model.fp32.onnx"}))
    with pytest.raises(BackendUnavailableError, match="for GPUs; it offers none"):
        open_engine(bundle, "ort", "fp16")


def test_a_broken_model_is_refused() -> None:
    with pytest.raises(BackendUnavailableError, match="rejected the model"):
        OrtEngine.open(ModelFile("fp32", b"no model"), Precision.FP32, 1)


def test_another_provider_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "get_providers", lambda _self: ["OtherProvider"]
    )
    with pytest.raises(BackendUnavailableError, match="OtherProvider"):
        OrtEngine.open(ModelFile("fp32", bright_model()), Precision.FP32, 1)


@pytest.mark.slow
def test_nothing_is_left_for_telemetry(bright_bundle: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time; from cnnres_infer import Predictor, Bundle\n"
        "from tests.conftest import blob_volume\n"
        "with Predictor.load(sys.argv[1]) as p: p.predict(blob_volume()[0])\n"
        "time.sleep(2)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run(
        [sys.executable, "-c", code, str(bright_bundle)],
        check=True,
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert not list(tmp_path.rglob("*"))


def test_both_packages_of_onnxruntime_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "cnnres_infer.host.machine.versions",
        lambda *_names: {"onnxruntime": "1", "onnxruntime-gpu": "1"},
    )
    probe = OrtEngine.probe()
    assert not probe.usable
    assert "overwrite" in probe.reason
    assert "pip uninstall" in probe.remedy
