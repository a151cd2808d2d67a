"""A fake of TensorRT's runtime: a plan is an ONNX file, and ONNX Runtime computes it."""

import ctypes
import math
from enum import Enum
from typing import Any

import numpy as np
import onnxruntime

from tests.fakes.cuda import FakeCudaRuntime

SCRATCH_EACH = 1000
# Of the optimisation profile, where the model leaves height and width open.
SIDES = (96, 128, 160)


class Level(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class FakeLogger:
    Severity = Level

    def log(self, severity: Level, message: str) -> None: ...


class IOMode(Enum):
    INPUT = 1
    OUTPUT = 2


class Allocation(Enum):
    STATIC = 0
    USER_MANAGED = 2


class FakeTensorRT:
    """The module."""

    __name__ = "tensorrt"
    __version__ = "10.16.1.11"
    ILogger = FakeLogger
    TensorIOMode = IOMode
    ExecutionContextAllocationStrategy = Allocation

    def __init__(self, cuda: FakeCudaRuntime) -> None:
        self.cuda = cuda
        self.contexts = 0
        self.refuses_plans = False
        self.fails_to_run = False
        self.comes_out_black = False

    def Runtime(self, logger: FakeLogger) -> "FakeRuntime":
        return FakeRuntime(self, logger)

    def check_strategy(self, strategy: Any) -> None:
        assert strategy == Allocation.USER_MANAGED

    def compile(self, count: int) -> None:
        """TensorRT has compiled everything when it built the plan."""


class FakeRuntime:
    def __init__(self, trt: FakeTensorRT, logger: FakeLogger) -> None:
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, plan: bytes) -> "FakeEngine | None":
        if self._trt.refuses_plans:
            self._logger.log(Level.ERROR, "the plan was made by another version")
            return None
        return FakeEngine(self._trt, plan)


class FakeEngine:
    def __init__(self, trt: FakeTensorRT, plan: bytes) -> None:
        self.trt = trt
        self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        (self.image,), (self.answer,) = self.session.get_inputs(), self.session.get_outputs()
        self.num_io_tensors = 2

    def get_tensor_name(self, index: int) -> str:
        return str((self.image, self.answer)[index].name)

    def get_tensor_mode(self, name: str) -> IOMode:
        return IOMode.INPUT if name == self.image.name else IOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        tensor = self.image if name == self.image.name else self.answer
        return (-1, *(n if isinstance(n, int) else -1 for n in tensor.shape[1:]))

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == (self.image.name, 0)
        channels, *extents = self.get_tensor_shape(name)[1:]
        return [
            (count, channels, *(side if n < 0 else n for n in extents))
            for count, side in ((1, SIDES[0]), (8, SIDES[1]), (64, SIDES[-1]))
        ]

    def create_execution_context(self, strategy: Any) -> "FakeContext":
        self.trt.check_strategy(strategy)
        self.trt.contexts += 1
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == self._engine.image.name
        assert not self._shape, "a graph of the former shape would be void"
        self._shape = shape
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        return SCRATCH_EACH * self._shape[0]

    def set_device_memory(self, address: int, nbytes: int) -> None:
        assert nbytes >= SCRATCH_EACH * self._shape[0]
        self._scratch = (address, nbytes)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt = self._engine.trt
        assert stream_handle in trt.cuda.streams
        if trt.fails_to_run:
            return False
        trt.compile(self._shape[0])
        source = self._addresses[self._engine.image.name]
        target = self._addresses[self._engine.answer.name]
        scratch, shape = self._scratch, self._shape

        def run() -> None:
            assert trt.cuda.is_reserved(*scratch)
            images = _view(trt.cuda, source, shape)
            (answer,) = self._engine.session.run(None, {self._engine.image.name: images})
            _view(trt.cuda, target, answer.shape)[:] = 0 if trt.comes_out_black else answer

        trt.cuda.enqueue("run", run)
        return True


class GraphStrategy(Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class Validity(Enum):
    VALID = 0
    INVALID = 2


class Capability(Enum):
    SM75 = 75
    SM86 = 86


class FakeTensorRtRtx(FakeTensorRT):
    """The module of the other flavour: it captures graphs itself and compiles as it runs."""

    __name__ = "tensorrt_rtx"
    __version__ = "1.7.1.116"
    CudaGraphStrategy = GraphStrategy
    EngineValidity = Validity
    ComputeCapability = Capability

    def __init__(self, cuda: FakeCudaRuntime) -> None:
        super().__init__(cuda)
        self.kernels: set[int] = set()
        self.compiled: list[int] = []

    def Runtime(self, logger: FakeLogger) -> "FakeRtxRuntime":
        return FakeRtxRuntime(self, logger)

    def check_strategy(self, strategy: Any) -> None:
        assert isinstance(strategy, FakeRuntimeConfig)
        assert strategy.strategy == Allocation.USER_MANAGED
        assert strategy.cuda_graph_strategy == GraphStrategy.WHOLE_GRAPH_CAPTURE
        assert strategy.cache is not None

    def compile(self, count: int) -> None:
        if count not in self.kernels:
            self.kernels.add(count)
            self.compiled.append(count)


class FakeRtxRuntime(FakeRuntime):
    def get_engine_validity(self, _plan: bytes) -> tuple[Validity, str]:
        invalid = self._trt.refuses_plans
        return (Validity.INVALID, "UNSUPPORTED_CC") if invalid else (Validity.VALID, "")

    def deserialize_cuda_engine(self, plan: bytes) -> "FakeEngine | None":
        assert isinstance(self._trt, FakeTensorRtRtx)
        return FakeRtxEngine(self._trt, plan)


class FakeRtxEngine(FakeEngine):
    def __init__(self, trt: FakeTensorRtRtx, plan: bytes) -> None:
        super().__init__(trt, plan)
        self._rtx = trt

    def create_runtime_config(self) -> "FakeRuntimeConfig":
        return FakeRuntimeConfig(self._rtx)


class FakeRuntimeConfig:
    def __init__(self, trt: FakeTensorRtRtx) -> None:
        self._trt = trt
        self.strategy: Allocation | None = None
        self.cuda_graph_strategy = GraphStrategy.DISABLED
        self.cache: FakeRuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: Allocation) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> "FakeRuntimeCache":
        return FakeRuntimeCache(self._trt)

    def set_runtime_cache(self, cache: "FakeRuntimeCache") -> bool:
        self.cache = cache
        return True


class FakeRuntimeCache:
    def __init__(self, trt: FakeTensorRtRtx) -> None:
        self._trt = trt
        trt.kernels = set()

    def serialize(self) -> bytes:
        return bytes(sorted(self._trt.kernels))

    def deserialize(self, content: bytes) -> bool:
        self._trt.kernels = set(content)
        return True


def _view(cuda: FakeCudaRuntime, address: int, shape: tuple[int, ...]) -> Any:
    size = math.prod(shape)
    assert cuda.is_reserved(address, 4 * size)
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address)).reshape(shape)
