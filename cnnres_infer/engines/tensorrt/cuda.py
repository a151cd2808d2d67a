"""The few calls of the CUDA runtime that are needed to run a plan, with error checking."""

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.engines.nvidia.device import Gpu, find_gpu
from cnnres_infer.engines.nvidia.libraries import check_driver
from cnnres_infer.errors import BackendUnavailableError, EngineRunError, NotInstalledError

INSTALL = "pip install cuda-bindings"
_INSTALL_FOR_DRIVER = "pip install 'cuda-bindings=={}.*'"
# The last of each major version of CUDA that is no longer continued. In CUDA 11, graphs are
# instantiated by other arguments.
_LAST = {12: "12.9"}


class DeviceMemoryError(EngineRunError):
    """The GPU's memory is full."""


def load_runtime() -> Any:
    """Import cuda-python's bindings for the CUDA runtime, under their new or old name.

    Raises
    ------
    NotInstalledError
        If they are not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime
        except ImportError as error:
            gpu = find_gpu()
            install = (isinstance(gpu, Gpu) and remedy(gpu.cuda_major)) or INSTALL
            raise NotInstalledError(f"cuda-python is not installed ({error})", install) from error
    return runtime


def check_bindings(runtime: Any, gpu: Gpu) -> str:
    """Refuse bindings for a newer major version of CUDA than the driver supports.

    They contain the CUDA runtime, so they must not be newer than the driver. They
    tell their version without a driver.

    Returns
    -------
    str
        Their version of CUDA.

    Raises
    ------
    BackendUnavailableError
        If the driver is too old.
    """
    status, number = runtime.cudaRuntimeGetVersion()
    if status != runtime.cudaError_t.cudaSuccess:
        raise BackendUnavailableError(f"the CUDA runtime does not tell its version ({int(status)})")
    major, version = number // 1000, f"{number // 1000}.{number % 1000 // 10}"
    check_driver(gpu, major, f"cuda-bindings {version}", remedy(gpu.cuda_major))
    return version


def remedy(driver_major: int) -> str:
    """The command that installs bindings for a driver's version of CUDA; empty without any."""
    if driver_major < min(_LAST):
        return ""
    return _INSTALL_FOR_DRIVER.format(_LAST.get(driver_major, driver_major))


@dataclass(frozen=True)
class DeviceBuffer:
    """A buffer in the GPU's memory.

    Attributes
    ----------
    address, nbytes
        Address and size in bytes.
    """

    address: int
    nbytes: int


@dataclass(frozen=True, eq=False)
class PinnedArray:
    """Page-locked memory of the host, which the GPU accesses directly.

    Attributes
    ----------
    array
        float32 view of it; must not be used after it was released.
    address
        Its address.
    """

    array: FloatArray
    address: int


class Cuda:
    """A stream of a GPU, which becomes the current one of this thread, and its resources.

    The stream does not wait for the legacy default stream, which other code of the
    process may use: CUDA forbids that during a capture (error 906).

    Parameters
    ----------
    runtime
        What `load_runtime` returns.
    device
        Number of the GPU in CUDA.

    Raises
    ------
    BackendUnavailableError
        If CUDA cannot be used at all: the driver is too old, or has lost the GPU.
    """

    def __init__(self, runtime: Any, device: int = 0) -> None:
        self._runtime = runtime
        self._resources = ExitStack()
        try:
            self._check(runtime.cudaSetDevice(device))
            self._stream = self._check(
                runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking)
            )
        except EngineRunError as error:
            raise BackendUnavailableError(str(error)) from error

    @property
    def stream_handle(self) -> int:
        """The stream's handle for TensorRT."""
        return int(self._stream)

    def allocate(self, nbytes: int) -> DeviceBuffer:
        """Allocate GPU memory.

        Raises
        ------
        DeviceMemoryError
            If there is not enough.
        """
        address = self._check(self._runtime.cudaMalloc(nbytes))
        self._resources.callback(self._runtime.cudaFree, address)
        return DeviceBuffer(int(address), nbytes)

    def pin(self, shape: tuple[int, ...]) -> PinnedArray:
        """Allocate page-locked float32 memory of the host.

        Raises
        ------
        DeviceMemoryError
            If there is not enough.
        """
        size = int(np.prod(shape))
        flags = self._runtime.cudaHostAllocDefault
        address = self._check(self._runtime.cudaHostAlloc(4 * size, flags))
        self._resources.callback(self._runtime.cudaFreeHost, address)
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

    def wait(self) -> None:
        """Wait until the GPU has done all queued work."""
        self._check(self._runtime.cudaStreamSynchronize(self._stream))

    def capture(self, queue: Callable[[], None]) -> Any:
        """Capture the work that `queue` queues as a graph, which can be launched many times."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._check(self._runtime.cudaStreamBeginCapture(self._stream, mode))
        try:
            queue()
        except BaseException:
            # A stream that is still capturing would reject all later work.
            _, partial_graph = self._runtime.cudaStreamEndCapture(self._stream)
            if partial_graph is not None:
                self._runtime.cudaGraphDestroy(partial_graph)
            raise
        graph = self._check(self._runtime.cudaStreamEndCapture(self._stream))
        try:
            executable = self._check(self._runtime.cudaGraphInstantiate(graph, 0))
        finally:
            self._runtime.cudaGraphDestroy(graph)
        self._resources.callback(self._runtime.cudaGraphExecDestroy, executable)
        return executable

    def launch(self, graph: Any) -> None:
        """Queue a captured graph."""
        self._check(self._runtime.cudaGraphLaunch(graph, self._stream))

    def release(self) -> None:
        """Wait for queued work, and release all buffers and graphs.

        Never raises: after the device was lost, these calls fail too, which must
        not hide the first error.
        """
        self._runtime.cudaStreamSynchronize(self._stream)
        self._resources.close()
        # Clears the stored error, which would otherwise surface in a later call.
        self._runtime.cudaGetLastError()

    def close(self) -> None:
        """Release everything, including the stream."""
        self.release()
        self._runtime.cudaStreamDestroy(self._stream)

    def _copy(self, target: int, source: int, nbytes: int, kind: Any) -> None:
        self._check(self._runtime.cudaMemcpyAsync(target, source, nbytes, kind, self._stream))

    def _check(self, result: tuple[Any, ...]) -> Any:
        """Return the value of a call's result (status, value...), or raise the error it reports."""
        status, *values = result
        codes = self._runtime.cudaError_t
        if status == codes.cudaSuccess:
            return values[0] if values else None
        # Clears the stored error, which would otherwise surface in a later call.
        self._runtime.cudaGetLastError()
        _, text = self._runtime.cudaGetErrorString(status)
        message = f"CUDA error {int(status)}: {text.decode() if isinstance(text, bytes) else text}"
        if status == codes.cudaErrorInsufficientDriver:
            raise BackendUnavailableError(message, f"{remedy(12)}, or update the driver")
        if status == codes.cudaErrorMemoryAllocation:
            raise DeviceMemoryError(f"{message}; close other programs that use the GPU")
        raise EngineRunError(
            f"{message}; if the GPU or its driver was lost, restart the program and check "
            "nvidia-smi and dmesg"
        )
