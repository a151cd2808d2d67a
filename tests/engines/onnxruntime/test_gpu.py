"""ONNX Runtime's GPU providers where there is no GPU: what can be shown with the CPU's memory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest

from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import ModelFile, Probe
from cnnres_infer.engines.onnxruntime import gpu as ort_gpu
from cnnres_infer.engines.onnxruntime.bound import Bound
from cnnres_infer.engines.onnxruntime.gpu import OrtCudaEngine
from cnnres_infer.engines.onnxruntime.tensorrt import OrtTensorRtEngine, OrtTensorRtRtxEngine
from cnnres_infer.errors import BackendUnavailableError
from tests.conftest import bright_model
from tests.fakes.driver import FakeDriver
from tests.fakes.onnxruntime import FakeOnnxRuntime

Install = Callable[[FakeDriver], None]
IMAGES = np.random.default_rng(0).random((40, 1, 160, 160), np.float32)
EXPECTED = 1 / (1 + np.exp(-60 * (IMAGES - 0.8)))


class OnTheCpu(OrtCudaEngine):
    """The engine, with the CPU's provider and memory in the place of the GPU's."""

    PROVIDER: ClassVar[str] = "CPUExecutionProvider"
    DEVICE: ClassVar[str] = "cpu"
    LIBRARY: ClassVar[str] = "none"

    @classmethod
    def _session_of(
        cls,
        onnxruntime: Any,
        model: ModelFile,
        _options: Any,
        _precision: str,
        _folder: Path | None,
        _gpu: Any,
    ) -> Any:
        return onnxruntime.InferenceSession(model.content, providers=[cls.PROVIDER])


@pytest.fixture(autouse=True)
def fake_gpu(install_driver: Install) -> None:
    install_driver(FakeDriver())


@pytest.fixture
def engine() -> Iterator[OnTheCpu]:
    with OnTheCpu.open(ModelFile("fp32", bright_model()), Precision.FP32, 1) as engine:
        yield engine


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40])
def test_bound_memory_gives_every_slice_its_own_answer(engine: OnTheCpu, count: int) -> None:
    for _ in range(2):
        np.testing.assert_allclose(engine.run(IMAGES[:count]), EXPECTED[:count], atol=1e-5)
    info = engine.describe()
    assert info.provider == (
        "CPUExecutionProvider on NVIDIA Fake 3060 (SM 86, 12 GB, PCI 0000:1b:00.0)"
    )
    assert info.versions["driver"] == "580.1"


def test_full_memory_halves_the_batch(engine: OnTheCpu, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Bound.run

    def limited(self: Any, images: Any) -> Any:
        if len(self._images) > 4:
            raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer")
        return run(self, images)

    monkeypatch.setattr(Bound, "run", limited)
    np.testing.assert_allclose(engine.run(IMAGES), EXPECTED, atol=1e-5)
    assert [text.partition(": ")[2] for text in engine.describe().warnings] == [
        "continuing with batches of 8 slices",
        "continuing with batches of 4 slices",
    ]


def test_another_provider_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "get_providers", lambda _self: ["OtherProvider"]
    )
    with pytest.raises(BackendUnavailableError, match="selected OtherProvider"):
        OnTheCpu.open(ModelFile("fp32", bright_model()), Precision.FP32, 1)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="it is here"
)
@pytest.mark.parametrize("engine_class", [OrtCudaEngine, OrtTensorRtEngine])
def test_an_onnxruntime_for_cpus_has_no_gpu_provider(engine_class: type[OrtCudaEngine]) -> None:
    found = engine_class.probe()
    assert not found.usable
    assert found.reason == f"this onnxruntime has no {engine_class.PROVIDER}"
    assert "cnnres-infer[gpu]" in found.remedy
    with pytest.raises(BackendUnavailableError, match="to fix it: pip"):
        engine_class.open(ModelFile("fp32", bright_model()), Precision.FP32, 1)


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("libnvinfer.so.10", "libcudnn.so.9")
    monkeypatch.setattr(OnTheCpu, "LIBRARY", Path(onnxruntime.__file__).name)
    monkeypatch.setattr(Path, "exists", lambda _self: True)
    monkeypatch.setattr(ort_gpu, "cuda_of_library", lambda _path: 13)
    monkeypatch.setattr(ort_gpu, "missing_libraries", lambda _path: names)
    found = OnTheCpu.probe()
    assert found.reason == "CPUExecutionProvider lacks libnvinfer.so.10, libcudnn.so.9"


def test_the_plug_in_is_asked_for_by_its_name() -> None:
    found = OrtTensorRtRtxEngine.probe()
    if found.usable:
        pytest.skip("it is installed here")
    assert "TensorRT-RTX provider" in found.reason
    assert found.remedy


def test_settings_of_the_tensorrt_provider(own_cache: Path) -> None:
    model = ModelFile("fp16", bright_model())
    settings = OrtTensorRtEngine._settings(onnxruntime, model, Precision.FP16, own_cache)
    assert settings["trt_profile_min_shapes"] == "images:1x1x160x160"
    assert settings["trt_profile_max_shapes"] == "images:16x1x160x160"
    assert (settings["trt_fp16_enable"], settings["trt_int8_enable"]) == ("1", "0")
    assert settings["trt_cuda_graph_enable"] == "1"
    assert settings["trt_engine_cache_path"] == str(own_cache)
    uncached = OrtTensorRtEngine._settings(onnxruntime, model, Precision.FP16, None)
    assert not [name for name in uncached if "cache" in name]


def test_engines_of_other_inputs_are_in_another_folder(own_cache: Path) -> None:
    probe = Probe(True, "", versions={"onnxruntime-gpu": "1"}, devices=("GPU",))
    newer = Probe(True, "", versions={"onnxruntime-gpu": "2"})
    model, other = (ModelFile("fp16", bright_model(channels)) for channels in (1, 2))
    several, fewer = (
        ModelFile("fp16", bright_model(), sides) for sides in ((96, 128, 160), (96, 128))
    )
    folders = [
        ort_gpu._engine_folder("ort-tensorrt", *inputs)
        for inputs in (
            (model, Precision.FP16, probe),
            (model, Precision.INT8, probe),
            (other, Precision.FP16, probe),
            (model, Precision.FP16, newer),
            (several, Precision.FP16, probe),
            (fewer, Precision.FP16, probe),
        )
    ]
    assert len(set(folders)) == 6
    assert {folder.parent for folder in folders} == {own_cache / "ort-engines"}


def test_settings_of_the_tensorrt_provider_for_several_sizes() -> None:
    model = ModelFile("fp16", bright_model(extents=("height", "width")), (96, 128, 160))
    settings = OrtTensorRtEngine._settings(onnxruntime, model, Precision.FP16, None)
    assert settings["trt_profile_min_shapes"] == "images:1x1x96x96"
    assert settings["trt_profile_opt_shapes"] == "images:16x1x128x128"
    assert settings["trt_profile_max_shapes"] == "images:16x1x160x160"
    assert settings["trt_cuda_graph_enable"] == "0"


@pytest.mark.parametrize("engine_class", [OrtTensorRtEngine, OrtTensorRtRtxEngine])
def test_no_engine_is_kept_where_a_signature_is_required(
    fake_providers: FakeOnnxRuntime,
    own_cache: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    engine_class: type[OrtCudaEngine],
) -> None:
    folders: list[Path | None] = []
    session_of = engine_class._session_of

    def noted(*arguments: Any) -> Any:
        folders.append(arguments[4])
        return session_of(*arguments)

    monkeypatch.setattr(engine_class, "_session_of", noted)
    for use_cache in (False, True):
        model = ModelFile("fp32", bright_model(), use_cache=use_cache)
        with engine_class.open(model, Precision.FP32, 1) as engine:
            np.testing.assert_allclose(engine.run(IMAGES), EXPECTED, atol=1e-5)
        if not use_cache:
            assert not own_cache.exists()
            assert "at every start" in caplog.text
    uncached, cached = folders
    assert uncached is None
    assert cached is not None
    assert cached.is_relative_to(own_cache)


def test_a_file_of_one_size_is_refused_where_brains_are_cut() -> None:
    model = ModelFile("fp32", bright_model(), (96, 128, 160))
    with pytest.raises(BackendUnavailableError, match="fp32 takes images of one size only"):
        OnTheCpu.open(model, Precision.FP32, 1)
