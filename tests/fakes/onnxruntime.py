"""A fake of ONNX Runtime's GPU providers: sessions claim to use one, and compute on the CPU.

Like the real ones with CUDA graphs, a session fails on any thread but the one
that ran it first, and when a graph is launched after a run of another shape.
"""

import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime

CPU = "CPUExecutionProvider"
PLUG_IN = "NvTensorRTRTXExecutionProvider"
# Of two GPUs of `tests.fakes.driver`.
PCI_ADDRESSES = ("0000:1b:00.0", "0000:1c:00.0")


class FakeOrtValue:
    """Values on the GPU, which are on the CPU."""

    @staticmethod
    def ortvalue_from_numpy(array: Any, device: str, index: int) -> Any:
        assert (device, index) == ("cuda", FakeOnnxRuntime.device)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array, "cpu", 0)

    @staticmethod
    def ortvalue_from_shape_and_type(shape: Any, kind: Any, device: str, index: int) -> Any:
        assert (device, index) == ("cuda", FakeOnnxRuntime.device)
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cpu", 0)


class FakeSessionOptions:
    """Options; `provider` is that of the devices which were added."""

    def __init__(self) -> None:
        self.log_severity_level = 2
        self.graph_optimization_level: Any = None
        self.provider: str | None = None
        self.pci = ""
        self.kernels: Path | None = None
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value

    def add_provider_for_devices(self, devices: list[Any], settings: dict[str, str]) -> None:
        (device,) = devices
        self.provider = device.ep_name
        self.pci = device.device.metadata["pci_bus_id"]
        if "nv_runtime_cache_path" in settings:
            self.kernels = Path(settings["nv_runtime_cache_path"]) / "kernels"


class FakeRunOptions(onnxruntime.RunOptions):  # type: ignore[misc]
    """Options of a run; `graph` names the CUDA graph that it captures or launches."""

    graph: str

    def add_run_config_entry(self, name: str, value: str) -> None:
        assert name == "gpu_graph_id"
        self.graph = value


class FakeBinding(onnxruntime.IOBinding):  # type: ignore[misc]
    """A binding that knows the shape of its input."""

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.shape = tuple(value.shape())
        super().bind_ortvalue_input(name, value)


class FakeSession(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A session of the CPU that claims to be one of a GPU.

    `found_kernels` tells whether the plug-in finds kernels that it has stored; it stores them
    when a session ends.
    """

    _kernels: Path | None = None

    def __init__(
        self,
        model: bytes,
        options: FakeSessionOptions,
        providers: list[Any] | None = None,
        disabled_optimizers: list[str] | None = None,
        enable_fallback: int = 1,
    ) -> None:
        super().__init__(model, providers=[CPU])
        assert not enable_fallback or providers == [CPU], "it would run on the CPU unasked"
        if providers and providers != [CPU]:
            assert providers[0][1]["device_id"] == str(FakeOnnxRuntime.device)
        self.pci = options.pci
        self.found_kernels = options.kernels is not None and options.kernels.exists()
        self._kernels = options.kernels
        self._claimed = providers[0][0] if providers else options.provider
        self._thread: int | None = None
        settings = providers[0][1] if providers and providers != [CPU] else {}
        self._captures = settings.get("enable_cuda_graph") == "1"
        self._shape: tuple[int, ...] = ()
        self._captured: dict[str, tuple[int, ...]] = {}

    def __del__(self) -> None:
        if self._kernels is not None:
            self._kernels.write_bytes(b"kernels")

    def get_providers(self) -> list[str | None]:
        return [self._claimed, CPU]

    def run(self, *arguments: Any) -> Any:
        self._check_thread()
        return super().run(*arguments)

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self)

    def run_with_iobinding(self, binding: FakeBinding, options: FakeRunOptions) -> None:
        self._check_thread()
        if self._captures:
            self._check_graph(binding.shape, options.graph)
        super().run_with_iobinding(binding, options)

    def _check_graph(self, shape: tuple[int, ...], graph: str) -> None:
        if shape != self._shape:
            # The convolutions replace what the graphs so far refer to.
            self._captured = dict.fromkeys(self._captured, ())
            self._shape = shape
        if self._captured.setdefault(graph, shape) != shape:
            raise RuntimeError(f"graph {graph} launches kernels that are gone")

    def _check_thread(self) -> None:
        self._thread = self._thread or threading.get_ident()
        if self._thread != threading.get_ident():
            raise RuntimeError("the graph was captured by another thread")


class FakeOnnxRuntime:
    """The module; `device` is the GPU that sessions must use, as CUDA counts.

    Its devices are in the order of their PCI addresses, which is not CUDA's.
    """

    device = 0
    __version__ = onnxruntime.__version__
    __file__ = onnxruntime.__file__
    GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
    InferenceSession = FakeSession
    OrtValue = FakeOrtValue
    RunOptions = FakeRunOptions
    SessionOptions = FakeSessionOptions

    def __init__(self) -> None:
        self.registered: list[str] = []

    def set_default_logger_severity(self, severity: int) -> None:
        self.severity = severity

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", CPU]

    def register_execution_provider_library(self, name: str, _path: str) -> None:
        assert name not in self.registered, "a library registers once only"
        self.registered.append(name)

    def get_ep_devices(self) -> list[Any]:
        cpu = SimpleNamespace(ep_name=CPU, device=SimpleNamespace(metadata={}))
        return [cpu, *(_on_gpu(name, pci) for name in self.registered for pci in PCI_ADDRESSES)]


def _on_gpu(name: str, pci: str) -> Any:
    return SimpleNamespace(ep_name=name, device=SimpleNamespace(metadata={"pci_bus_id": pci}))


def fake_plug_in() -> ModuleType:
    """The module of the TensorRT-RTX plug-in."""
    module = ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    vars(module).update(get_ep_name=lambda: PLUG_IN, get_library_path=lambda: "/plug_in.so")
    return module
