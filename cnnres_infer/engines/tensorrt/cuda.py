"""The few calls of the CUDA runtime that running a plan takes, each of them checked."""

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.errors import BackendUnavailableError, EngineRunError

INSTALL = "pip install cuda-bindings"


class DeviceMemoryError(EngineRunError):
    """The GPU's memory is full."""


def load_runtime() -> Any:
    """Import cuda-python's bindings of the CUDA runtime, under their new or old name.

    Raises
    ------
    BackendUnavailableError
        If they are not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime
        except ImportError as error:
            raise BackendUnavailableError(
                f"cuda-python is not installed ({error})", INSTALL
            ) from error
    return runtime


@dataclass(frozen=True)
class DeviceBuffer:
    """Memory of the GPU.

    Attributes
    ----------
    address, nbytes
        Where it is and its size.
    """

    address: int
    nbytes: int


@dataclass(frozen=True, eq=False)
class PinnedArray:
    """Page-locked memory of the host, which the GPU copies from and to by itself.

    Attributes
    ----------
    array
        float32 view of it; not to be used once it was released.
    address
        Where it is.
    """

    array: FloatArray
    address: int


class Cuda:
    """A stream of the GPU, and all that was reserved for it.

    Parameters
    ----------
    runtime
        What `load_runtime` returns.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._reserved = ExitStack()
        self._stream = self._check(runtime.cudaStreamCreate())

    @property
    def stream_handle(self) -> int:
        """The stream, as TensorRT takes it."""
        return int(self._stream)

    def allocate(self, nbytes: int) -> DeviceBuffer:
        """Reserve memory of the GPU.

        Raises
        ------
        DeviceMemoryError
            If there is not enough.
        """
        address = self._check(self._runtime.cudaMalloc(nbytes))
        self._reserved.callback(self._runtime.cudaFree, address)
        return DeviceBuffer(int(address), nbytes)

    def pin(self, shape: tuple[int, ...]) -> PinnedArray:
        """Reserve page-locked float32 memory of the host.

        Raises
        ------
        DeviceMemoryError
            If there is not enough.
        """
        size = int(np.prod(shape))
        flags = self._runtime.cudaHostAllocDefault
        address = self._check(self._runtime.cudaHostAlloc(4 * size, flags))
        self._reserved.callback(self._runtime.cudaFreeHost, address)
        view = np.ctypeslib.as_array((ctypes.c_float * size).from_address(int(address)))
        return PinnedArray(view.reshape(shape), int(address))

    def copy_in(self, target: DeviceBuffer, source: PinnedArray, nbytes: int) -> None:
        """Queue a copy to the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(target.address, source.address, nbytes, kind)

    def copy_out(self, target: PinnedArray, source: DeviceBuffer, nbytes: int) -> None:
        """Queue a copy from the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(target.address, source.address, nbytes, kind)

    def event(self) -> Any:
        """A mark for the stream that can be waited for."""
        flags = self._runtime.cudaEventDisableTiming
        event = self._check(self._runtime.cudaEventCreateWithFlags(flags))
        self._reserved.callback(self._runtime.cudaEventDestroy, event)
        return event

    def record(self, event: Any) -> None:
        """Set the mark behind all that is queued."""
        self._check(self._runtime.cudaEventRecord(event, self._stream))

    def wait(self, event: Any) -> None:
        """Wait until the GPU has passed the mark."""
        self._check(self._runtime.cudaEventSynchronize(event))

    def capture(self, queue: Callable[[], None]) -> Any:
        """Record what `queue` would queue as a graph that can be launched many times."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._check(self._runtime.cudaStreamBeginCapture(self._stream, mode))
        try:
            queue()
        except BaseException:
            # A stream that is left capturing would refuse everything after.
            _, torso = self._runtime.cudaStreamEndCapture(self._stream)
            if torso is not None:
                self._runtime.cudaGraphDestroy(torso)
            raise
        graph = self._check(self._runtime.cudaStreamEndCapture(self._stream))
        try:
            ready = self._check(self._runtime.cudaGraphInstantiate(graph, 0))
        finally:
            self._runtime.cudaGraphDestroy(graph)
        self._reserved.callback(self._runtime.cudaGraphExecDestroy, ready)
        return ready

    def launch(self, graph: Any) -> None:
        """Queue a captured graph."""
        self._check(self._runtime.cudaGraphLaunch(graph, self._stream))

    def release(self) -> None:
        """Wait for what is queued, and let go of all buffers, marks and graphs.

        Never fails: after the device was lost, letting go fails too, and that
        must not hide the first error.
        """
        self._runtime.cudaStreamSynchronize(self._stream)
        self._reserved.close()
        self._runtime.cudaGetLastError()

    def close(self) -> None:
        """Let go of everything, the stream too."""
        self.release()
        self._runtime.cudaStreamDestroy(self._stream)

    def _copy(self, target: int, source: int, nbytes: int, kind: Any) -> None:
        self._check(self._runtime.cudaMemcpyAsync(target, source, nbytes, kind, self._stream))

    def _check(self, result: tuple[Any, ...]) -> Any:
        """The value of a call's result (status, value...), or the error that it reports."""
        status, *values = result
        codes = self._runtime.cudaError_t
        if status == codes.cudaSuccess:
            return values[0] if values else None
        # Also clears the runtime's memory of the error, which would surface in a later call.
        self._runtime.cudaGetLastError()
        _, text = self._runtime.cudaGetErrorString(status)
        message = f"CUDA: {text.decode() if isinstance(text, bytes) else text}"
        if status == codes.cudaErrorMemoryAllocation:
            raise DeviceMemoryError(f"{message}; close other programs that use the GPU")
        raise EngineRunError(
            f"{message} ({int(status)}); if the GPU or its driver was lost, restart the program "
            "and look at nvidia-smi and dmesg"
        )
