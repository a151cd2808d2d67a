"""Engines on an NVIDIA GPU: each does all of its work on a thread of its own.

CUDA's current device is a setting of each thread, and a caller's threads may
have chosen another one. ONNX Runtime ties CUDA graphs and the streams that they
are captured on to the thread that ran first, so even threads that take turns
break them (microsoft/onnxruntime#28002). A new thread starts with the first GPU,
which is the one that `find_gpu` describes, and neither sees nor changes what the
callers do with CUDA.
"""

from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import ClassVar, Self

from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import Handle, ModelFile, SharedEngine, T


class GpuEngine(SharedEngine[Handle]):
    """An engine that opens, runs and closes on one thread; calls queue for it.

    Parameters
    ----------
    handle, info, shape
        See `SharedEngine`.
    thread
        An executor with a single thread, which the engine shuts down.
    """

    RIVALS: ClassVar[tuple[Precision, ...]] = (Precision.FP16, Precision.INT8)

    def __init__(
        self,
        handle: Handle,
        info: EngineInfo,
        shape: tuple[int | None, ...],
        thread: Executor,
    ) -> None:
        super().__init__(handle, info, shape)
        self._thread = thread

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        thread = ThreadPoolExecutor(1, cls.__name__)
        opening = thread.submit(cls._open, model, precision, thread)
        try:
            return opening.result()
        except BaseException:
            # Whoever interrupts a build that takes minutes does not want to wait for it.
            thread.shutdown(wait=opening.done())
            raise

    @classmethod
    @abstractmethod
    def _open(cls, model: ModelFile, precision: Precision, thread: Executor) -> Self:
        """Open the engine on its thread, which is the one that this is called on."""

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._thread.shutdown()

    def _call(self, work: Callable[[], T]) -> T:
        try:
            done = self._thread.submit(work)
        except RuntimeError:
            # The thread has ended, so the engine is closed, and the work will find it so.
            return work()
        return done.result()
