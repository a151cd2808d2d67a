"""Fakes of NVIDIA's driver, of CUDA and of what uses it, put where the backends look for them."""

import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime
import pytest

from cnnres_infer.engines.nvidia import device as gpu
from cnnres_infer.engines.nvidia import sticky
from cnnres_infer.engines.onnxruntime import gpu as ort_gpu
from cnnres_infer.engines.onnxruntime import tensorrt as ort_trt
from cnnres_infer.engines.tensorrt import engine as trt
from cnnres_infer.engines.tensorrt import plan as trt_plan
from cnnres_infer.engines.tensorrt.api import Flavour
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.host import cache
from tests.fakes.cuda import FakeCudaRuntime
from tests.fakes.driver import FakeDriver
from tests.fakes.onnxruntime import CPU, FakeOnnxRuntime, fake_plug_in
from tests.fakes.tensorrt import FakeTensorRT, FakeTensorRtRtx


@pytest.fixture(autouse=True)
def sticky_errors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The list of sticky errors, of which each test has its own."""
    seen: list[str] = []
    monkeypatch.setattr(sticky, "_seen", seen)
    monkeypatch.setattr(sticky, "_watched", weakref.WeakSet())
    return seen


@pytest.fixture
def install_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[FakeDriver], None]]:
    """Put a fake driver in place of the real one.

    What ONNX Runtime has for GPUs here is hidden, since it would run on a real one.
    """
    monkeypatch.setattr(ort_gpu, "_native_folder", lambda: tmp_path / "no-providers")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    monkeypatch.setitem(sys.modules, fake_plug_in().__name__, None)

    def install(driver: FakeDriver) -> None:
        monkeypatch.setattr(gpu, "_load", driver.load)
        gpu.find_gpus.cache_clear()

    yield install
    gpu.find_gpus.cache_clear()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is empty."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(cache.FOLDER, str(folder))
    return folder


@dataclass
class FakeMachine:
    """A machine with a fake GPU and CUDA; `built` has the batch range of each build.

    Of the two flavours, those are installed that are not None.
    """

    cuda: FakeCudaRuntime
    tensorrt: FakeTensorRT | None
    rtx: FakeTensorRtRtx | None
    install_driver: Callable[[FakeDriver], None]
    built: list[str] = field(default_factory=list)


@pytest.fixture
def fake_machine(
    monkeypatch: pytest.MonkeyPatch,
    own_cache: Path,
    install_driver: Callable[[FakeDriver], None],
) -> FakeMachine:
    cuda = FakeCudaRuntime()
    machine = FakeMachine(cuda, FakeTensorRT(cuda), None, install_driver)

    def load(flavour: Flavour) -> FakeTensorRT:
        module = machine.rtx if flavour.portable else machine.tensorrt
        if module is None:
            raise BackendUnavailableError(f"{flavour.module} is not installed", flavour.install)
        return module

    def build(
        _trt: object,
        model: bytes,
        batch: object,
        _sm: object,
        timing: bytes | None,
        _p: object,
        sides: object,
    ) -> tuple[bytes, bytes | None]:
        machine.built.append(str(batch))
        # No two builds give the same bytes; this one becomes the name of the model's producer.
        plan = model + b"\x12\x01" + b"abcdefghij"[len(machine.built) - 1 :][:1]
        return plan, None if timing is None else timing + b"measured;"

    install_driver(FakeDriver())
    monkeypatch.setattr(Flavour, "load", load)
    monkeypatch.setattr(trt, "load_runtime", lambda: cuda)
    monkeypatch.setattr(trt_plan, "build", build)
    return machine


@pytest.fixture
def rtx(fake_machine: FakeMachine) -> FakeTensorRtRtx:
    """TensorRT-RTX in TensorRT's place."""
    fake_machine.tensorrt, fake_machine.rtx = None, FakeTensorRtRtx(fake_machine.cuda)
    return fake_machine.rtx


@pytest.fixture
def fake_providers(
    monkeypatch: pytest.MonkeyPatch, fake_machine: FakeMachine
) -> Iterator[FakeOnnxRuntime]:
    """ONNX Runtime with the providers for the GPU of the fake machine."""
    onnxruntime = FakeOnnxRuntime()
    plug_in = fake_plug_in()
    for module in (ort_gpu, ort_trt):
        monkeypatch.setattr(module, "import_onnxruntime", lambda: onnxruntime)
    monkeypatch.setitem(sys.modules, plug_in.__name__, plug_in)
    ort_trt._registered_devices.cache_clear()
    yield onnxruntime
    ort_trt._registered_devices.cache_clear()
