"""A fake of TensorRT's runtime: a plan is an ONNX file, and ONNX Runtime computes it.

It is as strict as TensorRT:

- The first run of a context allocates memory, which a capture does not allow.
- A context takes shapes within the profile only, and keeps the first.
- Scratch memory must be aligned and large enough. It is as large as for the
  largest shape, unless the plan was built to resize it.
- TensorRT-RTX compiles kernels for each shape. Unless told to do so at once, it
  runs others meanwhile, whose results differ.
"""

import ctypes
import json
import math
from collections import Counter
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import onnxruntime

from tests.fakes.cuda import ALIGNMENT, Error, FakeCudaRuntime

SCRATCH_EACH = 1000
# Of the optimisation profile: slices, and heights and widths where the model leaves them open.
COUNTS = (1, 8, 64)
SIDES = (96, 128, 160)
# How far off the kernels are that TensorRT-RTX runs until others are compiled.
FALLBACK_ERROR = 1e-3
_COMPILED_AFTER = 2


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
    """The module.

    Attributes
    ----------
    contexts
        How many contexts were created.
    resizes
        Whether plans were built with the preview feature for that.
    refuses_plans, refused
        Whether it refuses all plans, and those that it refuses in any case.
    complaint
        What it logs when it refuses one.
    """

    __name__ = "tensorrt"
    __version__ = "10.16.1.11"
    ILogger = FakeLogger
    TensorIOMode = IOMode
    ExecutionContextAllocationStrategy = Allocation

    def __init__(self, cuda: FakeCudaRuntime) -> None:
        self.cuda = cuda
        self.contexts = 0
        self.resizes = True
        self.refuses_plans = False
        self.refused: list[bytes] = []
        self.complaint = "the plan was made by another version"
        self.fails_to_run = False
        self.comes_out_black = False

    def Runtime(self, logger: FakeLogger) -> "FakeRuntime":
        return FakeRuntime(self, logger)

    def check_strategy(self, strategy: Any) -> None:
        assert strategy == Allocation.USER_MANAGED

    def compile(self, _shape: tuple[int, ...], _strategy: Any) -> float:
        """TensorRT has compiled everything when it built the plan, so results are exact."""
        return 0.0


class FakeRuntime:
    def __init__(self, trt: FakeTensorRT, logger: FakeLogger) -> None:
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, plan: bytes) -> "FakeEngine | None":
        if self._refuses(plan):
            return None
        return FakeEngine(self._trt, plan, self._logger)

    def _refuses(self, plan: bytes) -> bool:
        refuses = self._trt.refuses_plans or plan in self._trt.refused
        if refuses:
            self._logger.log(Level.ERROR, self._trt.complaint)
        return refuses


class FakeEngine:
    def __init__(self, trt: FakeTensorRT, plan: bytes, logger: FakeLogger) -> None:
        self.trt = trt
        self.logger = logger
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
            for count, side in zip(COUNTS, SIDES, strict=True)
        ]

    def create_execution_context(self, strategy: Any) -> "FakeContext":
        self.trt.check_strategy(strategy)
        self.trt.contexts += 1
        return FakeContext(self, strategy)


class FakeContext:
    def __init__(self, engine: FakeEngine, strategy: Any) -> None:
        self._engine = engine
        self._strategy = strategy
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)
        self._ran = False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == self._engine.image.name
        assert not self._shape, "a graph of the former shape would be void"
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        if not all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True)):
            return self._fail("the shape is outside of the profile")
        self._shape = shape
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        return SCRATCH_EACH * (self._shape[0] if self._engine.trt.resizes else COUNTS[-1])

    def set_device_memory(self, address: int, nbytes: int) -> None:
        if address % ALIGNMENT or nbytes < self.update_device_memory_size_for_shapes():
            self._fail("the memory is not aligned to 256 bytes, or too small")
        else:
            self._scratch = (address, nbytes)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt = self._engine.trt
        assert trt.cuda.streams[stream_handle] == trt.cuda.current
        if trt.fails_to_run or not (self._scratch[0] and self._set_up()):
            return False
        off = trt.compile(self._shape, self._strategy)
        source = self._addresses[self._engine.image.name]
        target = self._addresses[self._engine.answer.name]
        scratch, shape = self._scratch, self._shape

        def run() -> None:
            assert trt.cuda.is_reserved(*scratch)
            images = _view(trt.cuda, source, shape)
            (answer,) = self._engine.session.run(None, {self._engine.image.name: images})
            _view(trt.cuda, target, answer.shape)[:] = 0 if trt.comes_out_black else answer + off

        trt.cuda.enqueue("run", run)
        return True

    def _set_up(self) -> bool:
        """What the first run allocates."""
        cuda = self._engine.trt.cuda
        if not self._ran:
            status, address = cuda.cudaMalloc(0)
            if status != Error.cudaSuccess or address is None:
                return self._fail(f"cudaMalloc: {status.name}")
            cuda.cudaFree(address)
            self._ran = True
        return True

    def _fail(self, message: str) -> bool:
        self._engine.logger.log(Level.ERROR, message)
        return False


class GraphStrategy(Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class Specialization(Enum):
    LAZY = 0
    EAGER = 1


class Validity(Enum):
    VALID = 0
    INVALID = 2


class Diagnostics(IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4


class Capability(Enum):
    NONE = 0
    CURRENT = 1
    SM75 = 75
    SM86 = 86


class FakeTensorRtRtx(FakeTensorRT):
    """The module of the other flavour: it captures graphs itself and compiles as it runs.

    Attributes
    ----------
    kernels
        The shapes that there are kernels for.
    compiled
        The numbers of slices of the shapes that were compiled, in this order.
    diagnostics
        Why it refuses a plan, if it does.
    """

    __name__ = "tensorrt_rtx"
    __version__ = "1.7.1.116"
    CudaGraphStrategy = GraphStrategy
    DynamicShapesKernelSpecializationStrategy = Specialization
    EngineValidity = Validity
    EngineInvalidityDiagnostics = Diagnostics
    ComputeCapability = Capability

    def __init__(self, cuda: FakeCudaRuntime) -> None:
        super().__init__(cuda)
        self.kernels: set[tuple[int, ...]] = set()
        self.compiled: list[int] = []
        self.diagnostics: int = Diagnostics.UNSUPPORTED_CC | Diagnostics.OLD_CUDA_DRIVER
        self._uses: Counter[tuple[int, ...]] = Counter()

    def Runtime(self, logger: FakeLogger) -> "FakeRtxRuntime":
        return FakeRtxRuntime(self, logger)

    def check_strategy(self, strategy: Any) -> None:
        assert isinstance(strategy, FakeRuntimeConfig)
        assert strategy.strategy == Allocation.USER_MANAGED
        assert strategy.cuda_graph_strategy == GraphStrategy.WHOLE_GRAPH_CAPTURE
        assert strategy.cache is not None

    def compile(self, shape: tuple[int, ...], strategy: Any) -> float:
        """Compile kernels for a shape, and return how far off those are that run meanwhile."""
        self._uses[shape] += 1
        lazy = strategy.dynamic_shapes_kernel_specialization_strategy == Specialization.LAZY
        if shape not in self.kernels:
            if lazy and self._uses[shape] <= _COMPILED_AFTER:
                return FALLBACK_ERROR
            self.kernels.add(shape)
            self.compiled.append(shape[0])
        return 0.0


class FakeRtxRuntime(FakeRuntime):
    def get_engine_validity(self, plan: bytes) -> tuple[Validity, int]:
        assert isinstance(self._trt, FakeTensorRtRtx)
        if self._refuses(plan):
            return Validity.INVALID, self._trt.diagnostics
        return Validity.VALID, 0

    def deserialize_cuda_engine(self, plan: bytes) -> "FakeEngine | None":
        assert isinstance(self._trt, FakeTensorRtRtx)
        return FakeRtxEngine(self._trt, plan, self._logger)


class FakeRtxEngine(FakeEngine):
    def __init__(self, trt: FakeTensorRtRtx, plan: bytes, logger: FakeLogger) -> None:
        super().__init__(trt, plan, logger)
        self._rtx = trt

    def create_runtime_config(self) -> "FakeRuntimeConfig":
        return FakeRuntimeConfig(self._rtx)


class FakeRuntimeConfig:
    def __init__(self, trt: FakeTensorRtRtx) -> None:
        self._trt = trt
        self.strategy: Allocation | None = None
        self.cuda_graph_strategy = GraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = Specialization.LAZY
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
        return json.dumps(sorted(self._trt.kernels)).encode()

    def deserialize(self, content: bytes) -> bool:
        self._trt.kernels = {tuple(shape) for shape in json.loads(content)}
        return True


def _view(cuda: FakeCudaRuntime, address: int, shape: tuple[int, ...]) -> Any:
    size = math.prod(shape)
    assert cuda.is_reserved(address, 4 * size)
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address)).reshape(shape)
