"""A fake of `cuda.bindings.runtime`: its memory is the host's, its stream a list of deeds.

What is queued happens when somebody waits for it, as on a GPU, so that code
that takes results too early gets none. Memory that was not reserved cannot be
copied from or to. What happened is in `deeds`.

It is as strict as CUDA:

- Each thread has a current device, at first 0, and a stream is good for nothing
  on a thread whose current device is another.
- During a capture, allocating, freeing and waiting fail with error 900, and the
  capture with 901. A stream that waits for the legacy stream cannot be captured
  if others use that (906).
- An error of the device is sticky: from then on all calls fail with it, those
  that clear errors included.
- With a driver that is too old, all calls fail with error 35, but those that
  need no driver.
"""

import ctypes
import functools
import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

ALIGNMENT = 256


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorInvalidDevice = 101
    cudaErrorContained = 226
    cudaErrorInvalidResourceHandle = 400
    cudaErrorInvalidAddressSpace = 717
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorStreamCaptureImplicit = 906
    cudaErrorUnknown = 999


class CopyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class CaptureMode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


Deed = tuple[str, Callable[[], None]]
Call = TypeVar("Call", bound=Callable[..., tuple[Any, ...]])


def needs_driver(values: int = 0, *, captures: bool = True) -> Callable[[Call], Call]:
    """Let a call fail as it does in CUDA if it cannot work.

    Parameters
    ----------
    values
        How many values it returns beside the status; they are None if it fails.
    captures
        Whether it is allowed during a capture.
    """

    def decorated(call: Call) -> Call:
        @functools.wraps(call)
        def checked(self: "FakeCudaRuntime", *arguments: Any) -> tuple[Any, ...]:
            error = self._standing_error()
            if error == Error.cudaSuccess and self._captured is not None and not captures:
                error, self._invalidated = Error.cudaErrorStreamCaptureUnsupported, True
            if error != Error.cudaSuccess:
                self._forget(call.__name__, *arguments)
                return (error, *[None] * values)
            return call(self, *arguments)

        return checked  # type: ignore[return-value]

    return decorated


class FakeCudaRuntime:
    """The module.

    Attributes
    ----------
    limit
        Bytes of memory that the device has.
    version, gpus
        CUDA's version (12090 for 12.9), and the number of GPUs.
    failure
        The error that the device is left with, for good; None while it works.
    too_old
        Whether the driver is too old.
    legacy_in_use
        Whether other code of the process uses the legacy stream.
    """

    cudaError_t = Error
    cudaMemcpyKind = CopyKind
    cudaStreamCaptureMode = CaptureMode
    cudaHostAllocDefault = 0
    cudaStreamNonBlocking = 1

    def __init__(self, limit: int = 1 << 30) -> None:
        self.limit = limit
        self.version = 13000
        self.gpus = 4
        self.failure: Error | None = None
        self.too_old = False
        self.legacy_in_use = False
        self.deeds: list[str] = []
        self.device: dict[int, Any] = {}
        self.host: dict[int, Any] = {}
        self.streams: dict[int, int] = {}
        self.blocking: set[int] = set()
        self.graphs: dict[int, list[Deed]] = {}
        self._queue: list[Deed] = []
        self._captured: list[Deed] | None = None
        self._invalidated = False
        self._handles = iter(range(1, 1_000_000))
        self._current = threading.local()

    @property
    def leaks(self) -> int:
        kinds = (self.device, self.host, self.streams, self.graphs)
        return sum(len(kind) for kind in kinds)

    @property
    def current(self) -> int:
        """Current device of this thread."""
        return int(getattr(self._current, "device", 0))

    def is_reserved(self, address: int, nbytes: int) -> bool:
        return any(
            start <= address and address + nbytes <= start + len(memory) - ALIGNMENT
            for kind in (self.device, self.host)
            for start, memory in kind.items()
        )

    def enqueue(self, name: str, deed: Callable[[], None]) -> None:
        (self._queue if self._captured is None else self._captured).append((name, deed))

    def cudaRuntimeGetVersion(self) -> tuple[Error, int]:
        return Error.cudaSuccess, self.version

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, error.name.encode()

    def cudaGetLastError(self) -> tuple[Error]:
        return (self._standing_error(),)

    @needs_driver()
    def cudaSetDevice(self, device: int) -> tuple[Error]:
        if device >= self.gpus:
            return (Error.cudaErrorInvalidDevice,)
        self._current.device = device
        return (Error.cudaSuccess,)

    @needs_driver(1)
    def cudaGetDevice(self) -> tuple[Error, int]:
        return Error.cudaSuccess, self.current

    @needs_driver(1)
    def cudaStreamCreate(self) -> tuple[Error, int]:
        _, handle = self.cudaStreamCreateWithFlags(0)
        return Error.cudaSuccess, handle

    @needs_driver(1)
    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, int]:
        handle = next(self._handles)
        self.streams[handle] = self.current
        if not flags & self.cudaStreamNonBlocking:
            self.blocking.add(handle)
        return Error.cudaSuccess, handle

    @needs_driver()
    def cudaStreamDestroy(self, stream: int) -> tuple[Error]:
        del self.streams[stream]
        return (Error.cudaSuccess,)

    @needs_driver(1, captures=False)
    def cudaMalloc(self, nbytes: int) -> tuple[Error, int | None]:
        return self._reserve(self.device, nbytes)

    @needs_driver(1, captures=False)
    def cudaHostAlloc(self, nbytes: int, _flags: int) -> tuple[Error, int | None]:
        return self._reserve(self.host, nbytes)

    @needs_driver(captures=False)
    def cudaFree(self, address: int) -> tuple[Error]:
        del self.device[address]
        return (Error.cudaSuccess,)

    @needs_driver(captures=False)
    def cudaFreeHost(self, address: int) -> tuple[Error]:
        del self.host[address]
        return (Error.cudaSuccess,)

    @needs_driver()
    def cudaMemcpyAsync(
        self, target: int, source: int, nbytes: int, kind: CopyKind, stream: int
    ) -> tuple[Error]:
        spaces = (self.device, self.host)
        ours, theirs = spaces if kind == CopyKind.cudaMemcpyHostToDevice else spaces[::-1]
        if target not in ours or source not in theirs:
            return (Error.cudaErrorInvalidValue,)
        name = "in" if kind == CopyKind.cudaMemcpyHostToDevice else "out"
        self.enqueue(name, lambda: self._move(target, source, nbytes))
        return self._status(stream)

    @needs_driver(captures=False)
    def cudaStreamSynchronize(self, _stream: int) -> tuple[Error]:
        while self._queue:
            self._next()
        return self._status()

    @needs_driver()
    def cudaStreamBeginCapture(self, stream: int, _mode: CaptureMode) -> tuple[Error]:
        assert self._captured is None
        if self.legacy_in_use and stream in self.blocking:
            return (Error.cudaErrorStreamCaptureImplicit,)
        self._captured, self._invalidated = [], False
        return self._status()

    @needs_driver(1)
    def cudaStreamEndCapture(self, _stream: int) -> tuple[Error, int | None]:
        assert self._captured is not None
        captured, self._captured = self._captured, None
        if self._invalidated:
            return Error.cudaErrorStreamCaptureInvalidated, None
        handle = next(self._handles)
        self.graphs[handle] = captured
        return Error.cudaSuccess, handle

    @needs_driver(1)
    def cudaGraphInstantiate(self, graph: int, _flags: int) -> tuple[Error, int]:
        handle = next(self._handles)
        self.graphs[handle] = list(self.graphs[graph])
        self.deeds.append("capture")
        return Error.cudaSuccess, handle

    @needs_driver()
    def cudaGraphDestroy(self, graph: int) -> tuple[Error]:
        del self.graphs[graph]
        return (Error.cudaSuccess,)

    @needs_driver()
    def cudaGraphExecDestroy(self, graph: int) -> tuple[Error]:
        return self.cudaGraphDestroy(graph)

    @needs_driver()
    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[Error]:
        deeds = self.graphs[graph]
        self._queue += [("launch", lambda: None), *deeds]
        return self._status(stream)

    def _standing_error(self) -> Error:
        if self.too_old:
            return Error.cudaErrorInsufficientDriver
        return self.failure or Error.cudaSuccess

    def _forget(self, call: str, *arguments: Any) -> None:
        """Count what was to be released as released: after a sticky error nothing can be."""
        if self.failure and call == "cudaStreamEndCapture":
            self._captured = None
        owners: dict[str, Any] = {
            "cudaFree": self.device,
            "cudaFreeHost": self.host,
            "cudaStreamDestroy": self.streams,
            "cudaGraphDestroy": self.graphs,
            "cudaGraphExecDestroy": self.graphs,
        }
        if self.failure and call in owners:
            del owners[call][arguments[0]]

    def _reserve(self, space: dict[int, Any], nbytes: int) -> tuple[Error, int | None]:
        used = sum(len(memory) - ALIGNMENT for memory in self.device.values())
        if space is self.device and used + nbytes > self.limit:
            return Error.cudaErrorMemoryAllocation, None
        memory = (ctypes.c_char * (nbytes + ALIGNMENT))()
        address = -(-ctypes.addressof(memory) // ALIGNMENT) * ALIGNMENT
        space[address] = memory
        return Error.cudaSuccess, address

    def _move(self, target: int, source: int, nbytes: int) -> None:
        assert self.is_reserved(target, nbytes)
        assert self.is_reserved(source, nbytes)
        ctypes.memmove(target, source, nbytes)

    def _next(self) -> None:
        name, deed = self._queue.pop(0)
        self.deeds.append(name)
        deed()

    def _status(self, stream: int | None = None) -> tuple[Error]:
        if stream is not None and self.streams.get(stream) != self.current:
            return (Error.cudaErrorInvalidResourceHandle,)
        return (Error.cudaSuccess,)
