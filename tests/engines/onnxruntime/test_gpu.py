"""ONNX Runtime's GPU providers where there is no GPU: what can be shown with the CPU's memory."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import onnxruntime
import pytest

from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import ModelFile, Probe
from cnnres_infer.engines.nvidia import libraries
from cnnres_infer.engines.nvidia.device import DEVICE, Gpu
from cnnres_infer.engines.onnxruntime import gpu as ort_gpu
from cnnres_infer.engines.onnxruntime import tensorrt as ort_trt
from cnnres_infer.engines.onnxruntime.bound import Bound
from cnnres_infer.engines.onnxruntime.gpu import OrtCudaEngine
from cnnres_infer.engines.onnxruntime.tensorrt import OrtTensorRtEngine, OrtTensorRtRtxEngine
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.host import machine
from tests.conftest import bright_model
from tests.engines.native import compiled, make_library
from tests.fakes.driver import FakeDriver
from tests.fakes.onnxruntime import FakeOnnxRuntime, FakeSession

Install = Callable[[FakeDriver], None]
IMAGES = np.random.default_rng(0).random((40, 1, 160, 160), np.float32)
EXPECTED = 1 / (1 + np.exp(-60 * (IMAGES - 0.8)))


class OnTheCpu(OrtCudaEngine):
    """The engine, with the CPU's provider and memory in the place of the GPU's."""

    PROVIDER: ClassVar[str] = "CPUExecutionProvider"
    DEVICE: ClassVar[str] = "cpu"
    LIBRARIES: ClassVar[tuple[str, ...]] = ()

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


@pytest.mark.parametrize("engine_class", [OrtCudaEngine, OrtTensorRtEngine])
def test_an_onnxruntime_for_cpus_has_no_gpu_provider(engine_class: type[OrtCudaEngine]) -> None:
    found = engine_class.probe()
    assert not found.usable
    assert found.reason == f"this onnxruntime has no {engine_class.PROVIDER}"
    assert "cnnres-infer[gpu]" in found.remedy
    with pytest.raises(BackendUnavailableError, match="to fix it: pip"):
        engine_class.open(ModelFile("fp32", bright_model()), Precision.FP32, 1)


@pytest.fixture
def native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of that of ONNX Runtime's libraries; only what is there is found."""
    folder = tmp_path / "capi"
    folder.mkdir()
    monkeypatch.setattr(ort_gpu, "_native_folder", lambda: folder)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def refuse() -> None:
    pytest.fail("onnxruntime is imported before its libraries were checked")


@compiled
@pytest.mark.parametrize("engine_class", [OrtCudaEngine, OrtTensorRtEngine])
def test_a_provider_for_a_newer_cuda_names_the_version_to_install(
    native: Path,
    tmp_path: Path,
    install_driver: Install,
    monkeypatch: pytest.MonkeyPatch,
    engine_class: type[OrtCudaEngine],
) -> None:
    runtime = make_library(tmp_path / "libcudart.so.13", "libcudart.so.13")
    library = engine_class.LIBRARIES[0]
    make_library(native / library, library, runtime)
    install_driver(FakeDriver("550.1", cuda=12040))
    monkeypatch.setattr(ort_gpu, "import_onnxruntime", refuse)
    found = engine_class.probe()
    assert not found.usable
    assert "needs CUDA 13, but driver 550.1 supports CUDA up to 12.4" in found.reason
    assert found.remedy == (
        "pip install 'onnxruntime-gpu[cuda,cudnn]<1.27', or update the driver to 580 or newer"
    )


@compiled
def test_libraries_are_found_in_wheels_or_named(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = "libonnxruntime_providers_tensorrt.so"
    missing = "libcnnrestestinfer.so.10"
    needed = make_library(tmp_path / "elsewhere" / missing, missing)
    make_library(native / library, library, needed)
    cudnn = "libcnnrestestcudnn.so.9"
    monkeypatch.setattr(ort_gpu, "_CUDNN", cudnn)
    found = OrtTensorRtEngine.probe()
    assert found.reason == f"TensorrtExecutionProvider lacks {missing}, {cudnn}"
    assert found.incomplete
    assert "TensorRT" in found.remedy
    make_library(tmp_path / "tensorrt_libs" / missing, missing)
    assert OrtTensorRtEngine.probe().reason == f"TensorrtExecutionProvider lacks {cudnn}"
    make_library(tmp_path / "nvidia" / "cudnn" / "lib" / cudnn, cudnn)
    assert "lacks" not in OrtTensorRtEngine.probe().reason


@compiled
def test_tensorrt_also_needs_what_the_provider_for_cuda_does(native: Path, tmp_path: Path) -> None:
    name = "libcnnrestestcurand.so.10"
    needed = make_library(tmp_path / "elsewhere" / name, name)
    for library in OrtTensorRtEngine.LIBRARIES:
        make_library(native / library, library, *[needed] * ("cuda" in library))
    for engine_class in (OrtTensorRtEngine, OrtCudaEngine):
        found = engine_class.probe()
        assert not found.usable
        assert name in found.reason


@compiled
def test_the_libraries_of_nvidia_have_their_versions_in_the_probe(
    fake_providers: FakeOnnxRuntime, native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "_KERNELS", ("libcnnresnvinfer", "libcnnrescudnn9"))
    monkeypatch.setattr(ort_gpu, "_CUDNN", "libcnnrescudnn9.so.9")
    folder = tmp_path / "nvidia" / "all" / "lib"
    made = {}
    for name, version in (("libcnnresnvinfer.so.10", "10.16.1"), ("libcnnrescudnn9.so.9", "9.14")):
        stem = name.partition(".so")[0]
        made[name] = make_library(folder / f"{stem}.so.{version}", name)
        (folder / name).symlink_to(made[name])
    library = OrtTensorRtEngine.LIBRARIES[0]
    make_library(native / library, library, made["libcnnresnvinfer.so.10"])
    found = OrtTensorRtEngine.probe()
    assert found.usable
    assert found.versions["libcnnresnvinfer"] == "10.16.1"
    assert found.versions["libcnnrescudnn9"] == "9.14"


@pytest.mark.parametrize(
    ("engine_class", "distribution"),
    [
        (OrtCudaEngine, "nvidia-cudnn-cu12"),
        (OrtCudaEngine, "nvidia-cublas"),
        (OrtTensorRtEngine, "nvidia-cudnn-cu13"),
        (OrtTensorRtEngine, "tensorrt-cu13-libs"),
        (OrtTensorRtRtxEngine, "tensorrt-rtx-cu13-libs"),
    ],
)
def test_an_upgrade_of_a_library_makes_another_engine_of_it(
    fake_providers: FakeOnnxRuntime,
    monkeypatch: pytest.MonkeyPatch,
    engine_class: type[OrtCudaEngine],
    distribution: str,
) -> None:
    described = []
    for version in ("1.0", "1.1"):
        known = {distribution: version}
        monkeypatch.setattr(
            machine,
            "versions",
            lambda *names, known=known: {n: known[n] for n in names if n in known},
        )
        with engine_class.open(ModelFile("fp32", bright_model()), Precision.FP32, 1) as engine:
            described.append(engine.describe().versions[distribution])
    assert described == ["1.0", "1.1"]


@compiled
def test_what_onnxruntime_itself_needs_is_loaded_before_it_is_imported(
    native: Path, tmp_path: Path
) -> None:
    name = "libcnnrestestcudart.so.13"
    needed = make_library(tmp_path / "elsewhere" / name, name)
    make_library(native / "onnxruntime_pybind11_state.cpython-311.so", "state.so", needed)
    (library,) = OrtCudaEngine.LIBRARIES
    make_library(native / library, library)
    assert name in OrtCudaEngine.probe().reason


def test_the_plug_in_is_asked_for_by_its_name() -> None:
    found = OrtTensorRtRtxEngine.probe()
    assert not found.usable
    assert "TensorRT-RTX provider" in found.reason
    assert found.remedy


def plug_in_device(pci: str | None) -> Any:
    return SimpleNamespace(
        device=SimpleNamespace(metadata={} if pci is None else {"pci_bus_id": pci})
    )


@pytest.mark.parametrize(
    ("addresses", "chosen"),
    [
        (["0000:1A:00.0", "0000:1B:00.0"], [1]),
        (["0000:1a:00.0"], []),
        ([None], [0]),
        ([None, None], []),
        (["0000:1b:00.0", None], []),
        ([], []),
    ],
)
def test_the_plug_ins_device_is_chosen_by_its_pci_address(
    addresses: list[str | None], chosen: list[int]
) -> None:
    gpu = Gpu(0, "0000:1b:00.0", "GPU", 86, 0, "580.1", "13.1")
    devices = [plug_in_device(pci) for pci in addresses]
    assert ort_trt._on_gpu(devices, gpu) == [devices[i] for i in chosen]


@pytest.mark.parametrize("engine_class", [OrtCudaEngine, OrtTensorRtEngine, OrtTensorRtRtxEngine])
def test_sessions_are_on_the_gpu_that_was_chosen(
    fake_providers: FakeOnnxRuntime,
    install_driver: Install,
    monkeypatch: pytest.MonkeyPatch,
    engine_class: type[OrtCudaEngine],
) -> None:
    install_driver(FakeDriver(gpus=2))
    monkeypatch.setenv(DEVICE, "1")
    monkeypatch.setattr(FakeOnnxRuntime, "device", 1)
    with engine_class.open(ModelFile("fp32", bright_model()), Precision.FP32, 1) as engine:
        np.testing.assert_allclose(engine.run(IMAGES), EXPECTED, atol=1e-5)
        assert "PCI 0000:1b:00.0" in engine.describe().provider
        if engine_class is OrtTensorRtRtxEngine:
            session: Any = engine._handle
            assert session.pci == "0000:1b:00.0"


@pytest.mark.parametrize("before", [None, "1"])
@pytest.mark.parametrize("engine_class", [OrtTensorRtEngine, OrtTensorRtRtxEngine])
def test_fp32_of_tensorrt_is_not_tf32(
    fake_providers: FakeOnnxRuntime,
    monkeypatch: pytest.MonkeyPatch,
    engine_class: type[OrtCudaEngine],
    before: str | None,
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    if before is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", before)
    seen = []
    session = FakeSession.__init__

    def noted(*arguments: Any, **options: Any) -> None:
        if options.get("providers") != ["CPUExecutionProvider"]:
            seen.append(os.environ.get("NVIDIA_TF32_OVERRIDE"))
        session(*arguments, **options)

    monkeypatch.setattr(FakeSession, "__init__", noted)
    for precision in (Precision.FP16, Precision.FP32):
        engine_class.open(ModelFile(str(precision), bright_model()), precision, 1).close()
    # The first session of a process may settle it for all.
    assert seen == ["0", "0"]
    assert os.environ.get("NVIDIA_TF32_OVERRIDE") == before


@pytest.mark.parametrize(
    ("version", "precision", "enabled"),
    [
        ("1.20.0", "fp16", ("0", "0")),
        ("1.26.0", "fp32", ("0", "0")),
        ("1.26.0", "fp16", ("0", "0")),
        ("1.26.0", "int8", ("0", "0")),
        ("1.27.0", "fp32", ("0", "0")),
        ("1.27.0", "fp16", ("1", "0")),
        ("1.31.1", "int8", ("1", "1")),
        ("2.0.0rc1", "int8", ("1", "1")),
    ],
)
def test_types_of_the_tensorrt_provider(
    monkeypatch: pytest.MonkeyPatch, version: str, precision: str, enabled: tuple[str, str]
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    model = ModelFile(precision, bright_model())
    settings = OrtTensorRtEngine._settings(onnxruntime, model, Precision(precision), None)
    assert (settings["trt_fp16_enable"], settings["trt_int8_enable"]) == enabled


def test_settings_of_the_tensorrt_provider(own_cache: Path) -> None:
    model = ModelFile("fp16", bright_model())
    settings = OrtTensorRtEngine._settings(onnxruntime, model, Precision.FP16, own_cache)
    assert settings["trt_profile_min_shapes"] == "images:1x1x160x160"
    assert settings["trt_profile_max_shapes"] == "images:16x1x160x160"
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


@pytest.mark.parametrize("engine_class", [OrtTensorRtEngine, OrtTensorRtRtxEngine])
def test_an_engine_is_opened_without_a_cache_that_cannot_be_used(
    fake_providers: FakeOnnxRuntime,
    own_cache: Path,
    caplog: pytest.LogCaptureFixture,
    engine_class: type[OrtCudaEngine],
) -> None:
    own_cache.parent.mkdir(parents=True, exist_ok=True)
    own_cache.write_text("no folder")
    with engine_class.open(ModelFile("fp32", bright_model()), Precision.FP32, 1) as engine:
        np.testing.assert_allclose(engine.run(IMAGES), EXPECTED, atol=1e-5)
    assert "at every start" in caplog.text
    assert str(own_cache) not in caplog.text


def test_kernels_that_the_plug_in_stores_at_the_end_are_found_by_the_next_start(
    fake_providers: FakeOnnxRuntime, own_cache: Path
) -> None:
    found = []
    for _ in range(2):
        engine = OrtTensorRtRtxEngine.open(ModelFile("fp32", bright_model()), Precision.FP32, 1)
        found.append(cast(FakeSession, engine._handle).found_kernels)
        engine.close()
    assert found == [False, True]
    (kernels,) = own_cache.rglob("kernels")
    kernels.write_bytes(b"others")
    engine.close()
    with OrtTensorRtRtxEngine.open(ModelFile("fp32", bright_model()), Precision.FP32, 1) as engine:
        assert not cast(FakeSession, engine._handle).found_kernels


def test_a_file_of_one_size_is_refused_where_brains_are_cut() -> None:
    model = ModelFile("fp32", bright_model(), (96, 128, 160))
    with pytest.raises(BackendUnavailableError, match="fp32 takes images of one size only"):
        OnTheCpu.open(model, Precision.FP32, 1)
