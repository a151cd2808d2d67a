"""Run a TensorRT plan in batches that keep the GPU busy."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.engines.nvidia.batches import ladder, split
from cnnres_infer.engines.tensorrt.api import make_logger, reasons
from cnnres_infer.engines.tensorrt.cuda import Cuda, DeviceBuffer, DeviceMemoryError, PinnedArray
from cnnres_infer.errors import BackendUnavailableError, EngineError, EngineRunError


class PlanRefusedError(BackendUnavailableError):
    """TensorRT refuses a plan that it might accept if it were built again."""


@dataclass(frozen=True)
class _Buffers:
    """Memory for the images and probabilities of one batch."""

    host_in: PinnedArray
    host_out: PinnedArray
    device_in: DeviceBuffer
    device_out: DeviceBuffer


@dataclass
class _Program:
    """The network for one batch size and size of image.

    An execution context always keeps its shape, because a captured graph is only
    valid for the shape that its context had.

    Attributes
    ----------
    shape
        Shape of the batches, (N, C, H, W).
    ran
        Whether it has run. The first run is never captured, because its setup is
        not allowed during a capture.
    graph
        The captured run; None before.
    """

    context: Any
    shape: tuple[int, ...]
    ran: bool = False
    graph: Any = None


class PlanRunner:
    """A deserialized plan with its buffers.

    Parameters
    ----------
    trt, cuda
        The TensorRT module, and a stream that the runner closes.
    plan
        The serialized engine.
    batch
        Largest batch, in slices; reduced when the GPU's memory is full.
    runtime_cache
        Kernels that TensorRT-RTX compiled in earlier runs.

    Attributes
    ----------
    batch
        Largest batch, in slices.
    image
        Shape of an image, (C, H, W); -1 for dimensions that the plan leaves open.
    warnings
        What anyone who uses the results should know.

    Raises
    ------
    BackendUnavailableError
        If TensorRT cannot run the plan on this machine: `PlanRefusedError` if building
        it again may help.
    """

    def __init__(
        self, trt: Any, cuda: Cuda, plan: bytes, batch: int, runtime_cache: bytes = b""
    ) -> None:
        self._trt = trt
        self._cuda = cuda
        self.batch = batch
        self.warnings: list[str] = []
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._deserialize(plan)
        self._input, self._output = self._names()
        self.image: tuple[int, ...] = tuple(self._engine.get_tensor_shape(self._input))[1:]
        smallest, _, largest = self._engine.get_tensor_profile_shape(self._input, 0)
        self._least = int(next(iter(smallest)))
        self._largest: tuple[int, ...] = tuple(largest)[1:]
        # TensorRT-RTX compiles kernels at run time and captures graphs by itself.
        self._compiles = hasattr(trt, "CudaGraphStrategy")
        self._runtime_cache: Any = None
        self._config = self._runtime_config(runtime_cache)
        self._buffers: _Buffers | None = None
        self._programs: dict[tuple[int, ...], _Program] = {}
        self._scratch: list[DeviceBuffer] = []

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that batches are padded to, in ascending order."""
        if self._compiles:
            # The first start compiles kernels for each, times the sizes of images.
            return (self.batch,)
        return ladder(self._least, self.batch)

    def settle(self) -> None:
        """Use no sizes of batches from now on but these, which the self-check sees."""
        self._least = self.sizes[0]

    def run(self, images: FloatArray) -> FloatArray:
        """Turn images (N, C, H, W) into probabilities (N, 1, H, W), both float32.

        Raises
        ------
        EngineRunError
            If the GPU fails.
        """
        while True:
            try:
                return self._run(images)
            except DeviceMemoryError as error:
                self._release()
                if self.batch == self._least:
                    raise
                *smaller, _ = self.sizes
                self.batch = smaller[-1] if smaller else max(self.batch // 2, self._least)
                self.warnings.append(f"{error}: continuing with batches of {self.batch} slices")
            except BaseException as error:
                self._release()
                if isinstance(error, EngineError) or not isinstance(error, Exception):
                    raise
                raise EngineRunError(f"TensorRT failed: {error}{self._logger.summary()}") from error

    def runtime_cache(self) -> bytes:
        """The kernels that TensorRT-RTX compiled, for the next start; empty with TensorRT."""
        return bytes(self._runtime_cache.serialize()) if self._runtime_cache is not None else b""

    def close(self) -> None:
        """Release all memory and the stream."""
        self._release()
        self._engine = self._runtime = self._config = self._runtime_cache = None
        self._cuda.close()

    def _run(self, images: FloatArray) -> FloatArray:
        output = np.empty((len(images), 1, *images.shape[2:]), np.float32)
        buffers = self._prepare(images.shape[1:])
        for part in split(len(images), self.sizes):
            batch = images[part.rows]
            program = self._program((part.padded, *batch.shape[1:]))
            # What pads it is whatever the buffer holds.
            _shaped(buffers.host_in, batch.shape)[:] = batch
            self._queue(program, buffers)
            self._cuda.wait()
            output[part.rows] = _shaped(buffers.host_out, output[part.rows].shape)
        return output

    def _queue(self, program: _Program, buffers: _Buffers) -> None:
        """Start a batch: the first time as it is, later as a graph."""
        if program.graph is None and program.ran and not self._compiles:
            program.graph = self._cuda.capture(lambda: self._enqueue(program, buffers))
        if program.graph is not None:
            self._cuda.launch(program.graph)
        else:
            self._enqueue(program, buffers)
            program.ran = True

    def _enqueue(self, program: _Program, buffers: _Buffers) -> None:
        """Queue the copy to the GPU, the network and the copy back."""
        context, shape = program.context, program.shape
        context.set_tensor_address(self._input, buffers.device_in.address)
        context.set_tensor_address(self._output, buffers.device_out.address)
        self._cuda.copy_in(buffers.device_in, buffers.host_in, _nbytes(shape))
        if not context.execute_async_v3(self._cuda.stream_handle):
            raise EngineRunError(f"TensorRT failed to run the network{self._logger.summary()}")
        self._cuda.copy_out(
            buffers.host_out, buffers.device_out, _nbytes((shape[0], 1, *shape[2:]))
        )

    def _prepare(self, image: tuple[int, ...]) -> _Buffers:
        """The buffers, for the largest images that the plan takes; set up on first use."""
        if self._buffers is None:
            self._program((self.batch, *image))
            images = (self.batch, *self._largest)
            answers = (self.batch, 1, *self._largest[1:])
            self._buffers = _Buffers(
                self._cuda.pin(images),
                self._cuda.pin(answers),
                self._cuda.allocate(_nbytes(images)),
                self._cuda.allocate(_nbytes(answers)),
            )
        return self._buffers

    def _program(self, shape: tuple[int, ...]) -> _Program:
        """The network for batches of a shape (N, C, H, W), set up on first use."""
        if shape not in self._programs:
            context = self._context()
            if context is None or not context.set_input_shape(self._input, shape):
                raise DeviceMemoryError(
                    f"TensorRT could not set up the network for {shape[0]} slices"
                    f"{self._logger.summary()}"
                )
            scratch = self._scratch_for(context.update_device_memory_size_for_shapes())
            context.set_device_memory(scratch.address, scratch.nbytes)
            self._programs[shape] = _Program(context, shape)
        return self._programs[shape]

    def _scratch_for(self, nbytes: int) -> DeviceBuffer:
        """Memory for activations, which batches share because they run one after another."""
        for buffer in self._scratch:
            if buffer.nbytes >= nbytes:
                return buffer
        self._scratch.append(self._cuda.allocate(max(nbytes, 1)))
        return self._scratch[-1]

    def _context(self) -> Any:
        if self._config is not None:
            return self._engine.create_execution_context(self._config)
        # Allocate memory for the actual batch, not for the largest that the plan allows.
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return self._engine.create_execution_context(strategy)

    def _release(self) -> None:
        """Release everything that `run` has set up; the next run sets it up again."""
        self._buffers = None
        self._scratch.clear()
        # Graphs must be released before the contexts that they were captured from.
        self._cuda.release()
        self._programs.clear()

    def _deserialize(self, plan: bytes) -> Any:
        if hasattr(self._runtime, "get_engine_validity"):
            validity, diagnostics = self._runtime.get_engine_validity(plan)
            if validity == self._trt.EngineValidity.INVALID:
                named = ", ".join(reasons(self._trt, int(diagnostics)))
                raise self._refusal(
                    "TensorRT reports that the engine cannot run on this GPU"
                    + (f" ({named})" if named else "")
                )
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self._refusal("TensorRT cannot load the engine on this GPU")
        return engine

    def _refusal(self, message: str) -> BackendUnavailableError:
        message += self._logger.summary()
        # With more of it free, TensorRT may accept the very same plan.
        is_full = "memory" in message.lower()
        return BackendUnavailableError(message) if is_full else PlanRefusedError(message)

    def _names(self) -> tuple[str, str]:
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        mode = self._trt.TensorIOMode.INPUT
        (image,) = [name for name in names if self._engine.get_tensor_mode(name) == mode]
        (output,) = [name for name in names if name != image]
        return image, output

    def _runtime_config(self, runtime_cache: bytes) -> Any:
        """TensorRT-RTX's configuration of contexts; None with TensorRT."""
        if not self._compiles:
            return None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Lazily, a shape would first run other kernels than those that are compiled meanwhile,
        # and a self-check would see only the former.
        config.dynamic_shapes_kernel_specialization_strategy = (
            self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        self._runtime_cache = config.create_runtime_cache()
        if runtime_cache:
            # Kernels that it does not accept are compiled again.
            self._runtime_cache.deserialize(runtime_cache)
        config.set_runtime_cache(self._runtime_cache)
        return config


def _shaped(memory: PinnedArray, shape: tuple[int, ...]) -> FloatArray:
    """The beginning of a buffer as an array of a shape."""
    return memory.array.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def _nbytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * np.dtype(np.float32).itemsize
