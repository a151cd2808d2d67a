"""A fake of `cuda.bindings.runtime`: its memory is the host's, its stream a list of deeds.

What is queued happens when somebody waits for it, as on a GPU, so that code
that takes results too early gets none. Memory that was not reserved cannot be
copied from or to. What happened is in `deeds`, and how much was queued at each
wait in `waiting`.

As in CUDA, each thread has a current device, at first 0, and a stream is good
for nothing on a thread whose current device is another.
"""

import ctypes
import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidResourceHandle = 400
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorDeviceLost = 999


class CopyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class CaptureMode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


Deed = tuple[str, Callable[[], None]]


class FakeCudaRuntime:
    """The module; `limit` bytes of memory, and a device that is lost once `lost` is set."""

    cudaError_t = Error
    cudaMemcpyKind = CopyKind
    cudaStreamCaptureMode = CaptureMode
    cudaHostAllocDefault = 0
    cudaEventDisableTiming = 2

    def __init__(self, limit: int = 1 << 30) -> None:
        self.limit = limit
        self.lost = False
        self.deeds: list[str] = []
        self.waiting: list[int] = []
        self.device: dict[int, Any] = {}
        self.host: dict[int, Any] = {}
        self.streams: dict[int, int] = {}
        self.events: set[int] = set()
        self.graphs: dict[int, list[Deed]] = {}
        self._queue: list[Deed] = []
        self._captured: list[Deed] | None = None
        self._handles = iter(range(1, 1_000_000))
        self._current = threading.local()

    @property
    def leaks(self) -> int:
        kinds = (self.device, self.host, self.streams, self.events, self.graphs)
        return sum(len(kind) for kind in kinds)

    def is_reserved(self, address: int, nbytes: int) -> bool:
        return any(
            start <= address and address + nbytes <= start + ctypes.sizeof(memory)
            for kind in (self.device, self.host)
            for start, memory in kind.items()
        )

    def enqueue(self, name: str, deed: Callable[[], None]) -> None:
        (self._queue if self._captured is None else self._captured).append((name, deed))

    def cudaSetDevice(self, device: int) -> tuple[Error]:
        self._current.device = device
        return (Error.cudaSuccess,)

    def cudaGetDevice(self) -> tuple[Error, int]:
        return Error.cudaSuccess, getattr(self._current, "device", 0)

    def cudaStreamCreate(self) -> tuple[Error, int]:
        handle = next(self._handles)
        _, self.streams[handle] = self.cudaGetDevice()
        return Error.cudaSuccess, handle

    def cudaStreamDestroy(self, stream: int) -> tuple[Error]:
        del self.streams[stream]
        return (Error.cudaSuccess,)

    def cudaMalloc(self, nbytes: int) -> tuple[Error, int | None]:
        return self._reserve(self.device, nbytes)

    def cudaHostAlloc(self, nbytes: int, _flags: int) -> tuple[Error, int | None]:
        return self._reserve(self.host, nbytes)

    def cudaFree(self, address: int) -> tuple[Error]:
        del self.device[address]
        return (Error.cudaSuccess,)

    def cudaFreeHost(self, address: int) -> tuple[Error]:
        del self.host[address]
        return (Error.cudaSuccess,)

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

    def cudaEventCreateWithFlags(self, _flags: int) -> tuple[Error, int]:
        handle = next(self._handles)
        self.events.add(handle)
        return Error.cudaSuccess, handle

    def cudaEventDestroy(self, event: int) -> tuple[Error]:
        self.events.remove(event)
        return (Error.cudaSuccess,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Error]:
        assert event in self.events
        self.enqueue(f"event {event}", lambda: None)
        return self._status(stream)

    def cudaEventSynchronize(self, event: int) -> tuple[Error]:
        self.waiting.append(len(self._queue))
        mark = f"event {event}"
        while any(name == mark for name, _ in self._queue):
            self._next()
        return self._status()

    def cudaStreamSynchronize(self, _stream: int) -> tuple[Error]:
        while self._queue:
            self._next()
        return self._status()

    def cudaStreamBeginCapture(self, _stream: int, _mode: CaptureMode) -> tuple[Error]:
        assert self._captured is None
        self._captured = []
        return self._status()

    def cudaStreamEndCapture(self, _stream: int) -> tuple[Error, int]:
        assert self._captured is not None
        handle = next(self._handles)
        self.graphs[handle], self._captured = self._captured, None
        return Error.cudaSuccess, handle

    def cudaGraphInstantiate(self, graph: int, _flags: int) -> tuple[Error, int]:
        handle = next(self._handles)
        self.graphs[handle] = list(self.graphs[graph])
        self.deeds.append("capture")
        return Error.cudaSuccess, handle

    def cudaGraphDestroy(self, graph: int) -> tuple[Error]:
        del self.graphs[graph]
        return (Error.cudaSuccess,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[Error]:
        deeds = self.graphs[graph]
        self._queue += [("launch", lambda: None), *deeds]
        return self._status(stream)

    def cudaGetLastError(self) -> tuple[Error]:
        return (Error.cudaSuccess,)

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, error.name.encode()

    def _reserve(self, space: dict[int, Any], nbytes: int) -> tuple[Error, int | None]:
        if self.lost:
            return Error.cudaErrorDeviceLost, None
        used = sum(map(ctypes.sizeof, self.device.values()))
        if space is self.device and used + nbytes > self.limit:
            return Error.cudaErrorMemoryAllocation, None
        memory = (ctypes.c_char * nbytes)()
        address = ctypes.addressof(memory)
        space[address] = memory
        return Error.cudaSuccess, address

    def _move(self, target: int, source: int, nbytes: int) -> None:
        assert self.is_reserved(target, nbytes)
        assert self.is_reserved(source, nbytes)
        ctypes.memmove(target, source, nbytes)

    def _next(self) -> None:
        name, deed = self._queue.pop(0)
        self.deeds.append(name.partition(" ")[0])
        if not self.lost:
            deed()

    def _status(self, stream: int | None = None) -> tuple[Error]:
        _, current = self.cudaGetDevice()
        if stream is not None and self.streams.get(stream) != current:
            return (Error.cudaErrorInvalidResourceHandle,)
        return (Error.cudaErrorDeviceLost if self.lost else Error.cudaSuccess,)
