"""Run a TensorRT plan in batches that keep the GPU busy."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.engines.nvidia.batches import Part, ladder, split
from cnnres_infer.engines.tensorrt.api import make_logger, reasons
from cnnres_infer.engines.tensorrt.cuda import Cuda, DeviceBuffer, DeviceMemoryError, PinnedArray
from cnnres_infer.errors import BackendUnavailableError, EngineError, EngineRunError

_LANES = 2


@dataclass
class _Lane:
    """The buffers of one batch; of two lanes, one is filled while the other computes.

    Attributes
    ----------
    pending
        The rows of the output for the running batch; None if none is running.
    """

    host_in: PinnedArray
    host_out: PinnedArray
    device_in: DeviceBuffer
    device_out: DeviceBuffer
    done: Any
    pending: slice | None = None


@dataclass
class _Program:
    """The network for one batch size and size of image.

    An execution context always keeps its shape, because a captured graph is only
    valid for the shape that its context had.

    Attributes
    ----------
    lanes_used
        Lanes that it has run in. The first run is never captured, because its
        setup is not allowed during a capture.
    graphs
        The captured run of each lane.
    """

    context: Any
    lanes_used: set[int] = field(default_factory=set)
    graphs: dict[int, Any] = field(default_factory=dict)


class PlanRunner:
    """A deserialized plan with its buffers.

    Parameters
    ----------
    trt, cuda
        The TensorRT module, and a stream that the runner closes.
    plan
        The serialized engine.
    batch
        Largest batch, in slices; halved when the GPU's memory is full.
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
        If TensorRT cannot run the plan on this machine.
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
        self._captures = not hasattr(trt, "CudaGraphStrategy")
        self._runtime_cache: Any = None
        self._config = self._runtime_config(runtime_cache)
        self._lanes: list[_Lane] = []
        self._programs: dict[tuple[int, ...], _Program] = {}
        self._scratch: list[DeviceBuffer] = []

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that batches are padded to, in ascending order."""
        return ladder(self._least, self.batch)

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
                self.batch = max(self.batch // 2, self._least)
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
        self._prepare(images.shape[1:])
        turns = itertools.cycle(enumerate(self._lanes))
        for part in split(len(images), self.sizes):
            index, lane = next(turns)
            self._collect(lane, output)
            self._queue(index, lane, images, part)
        for lane in self._lanes:
            self._collect(lane, output)
        return output

    def _collect(self, lane: _Lane, output: FloatArray) -> None:
        """Wait for the running batch of a lane and store its results."""
        if lane.pending is None:
            return
        self._cuda.wait(lane.done)
        rows, lane.pending = lane.pending, None
        output[rows] = _shaped(lane.host_out, (rows.stop - rows.start, *output.shape[1:]))

    def _queue(self, index: int, lane: _Lane, images: FloatArray, part: Part) -> None:
        """Start a batch in a lane; what pads it is whatever the buffer holds."""
        shape = (part.padded, *images.shape[1:])
        program = self._program(shape)
        batch = images[part.rows]
        _shaped(lane.host_in, batch.shape)[:] = batch
        if index in program.graphs:
            self._cuda.launch(program.graphs[index])
        elif self._captures and index in program.lanes_used:
            graph = self._cuda.capture(lambda: self._enqueue(program, lane, shape))
            program.graphs[index] = graph
            self._cuda.launch(graph)
        else:
            self._enqueue(program, lane, shape)
            program.lanes_used.add(index)
        self._cuda.record(lane.done)
        lane.pending = part.rows

    def _enqueue(self, program: _Program, lane: _Lane, shape: tuple[int, ...]) -> None:
        """Queue the copy to the GPU, the network and the copy back."""
        context = program.context
        context.set_tensor_address(self._input, lane.device_in.address)
        context.set_tensor_address(self._output, lane.device_out.address)
        self._cuda.copy_in(lane.device_in, lane.host_in, _nbytes(shape))
        if not context.execute_async_v3(self._cuda.stream_handle):
            raise EngineRunError(f"TensorRT failed to run the network{self._logger.summary()}")
        self._cuda.copy_out(lane.host_out, lane.device_out, _nbytes((shape[0], 1, *shape[2:])))

    def _prepare(self, image: tuple[int, ...]) -> None:
        """Set up the lanes, for the largest images that the plan takes."""
        if self._lanes:
            return
        self._program((self.batch, *image))
        for _ in range(_LANES):
            self._lanes.append(
                _Lane(
                    self._cuda.pin((self.batch, *self._largest)),
                    self._cuda.pin((self.batch, 1, *self._largest[1:])),
                    self._cuda.allocate(_nbytes((self.batch, *self._largest))),
                    self._cuda.allocate(_nbytes((self.batch, 1, *self._largest[1:]))),
                    self._cuda.event(),
                )
            )

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
            self._programs[shape] = _Program(context)
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
        self._lanes.clear()
        self._scratch.clear()
        # Graphs must be released before the contexts that they were captured from.
        self._cuda.release()
        self._programs.clear()

    def _deserialize(self, plan: bytes) -> Any:
        if hasattr(self._runtime, "get_engine_validity"):
            validity, diagnostics = self._runtime.get_engine_validity(plan)
            if validity == self._trt.EngineValidity.INVALID:
                raise BackendUnavailableError(
                    "TensorRT reports that the engine cannot run on this GPU "
                    f"({', '.join(reasons(self._trt, int(diagnostics)))})"
                )
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendUnavailableError(
                f"TensorRT cannot load the engine on this GPU{self._logger.summary()}"
            )
        return engine

    def _names(self) -> tuple[str, str]:
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        mode = self._trt.TensorIOMode.INPUT
        (image,) = [name for name in names if self._engine.get_tensor_mode(name) == mode]
        (output,) = [name for name in names if name != image]
        return image, output

    def _runtime_config(self, runtime_cache: bytes) -> Any:
        """TensorRT-RTX's configuration of contexts; None with TensorRT."""
        if self._captures:
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
