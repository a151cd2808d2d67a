"""Engines on an NVIDIA GPU, each of which does all of its work on its own thread.

CUDA's current device is a setting of each thread, and the caller may have
selected another one on its threads. ONNX Runtime ties CUDA graphs and the
streams that they are captured on to the thread of the first run, so even threads
that take turns break them (microsoft/onnxruntime#28002). The engine's own thread
selects the GPU that `find_gpu` describes, and is isolated from whatever the caller
does with CUDA.
"""

import sys
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from itertools import product
from typing import ClassVar, Self

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import Handle, ImageShape, ModelFile, SharedEngine, T
from cnnres_infer.engines.nvidia import sticky
from cnnres_infer.engines.nvidia.batches import LADDER
from cnnres_infer.engines.nvidia.worker import Worker, WorkerStoppedError
from cnnres_infer.errors import BackendUnavailableError, EngineRunError

# Graphs are captured on the second run.
_WARM_RUNS = 2


class GpuEngine(SharedEngine[Handle]):
    """An engine that is opened, run and closed on one thread, for which calls queue.

    Parameters
    ----------
    handle, info, shape
        See `SharedEngine`.
    worker
        The engine's thread, which the engine stops when it is closed.
    """

    RIVALS: ClassVar[tuple[Precision, ...]] = (Precision.FP16, Precision.INT8)
    # More at once are no faster, and with fewer the CPU prepares the next ones meanwhile.
    BATCH: ClassVar[int] = LADDER[-1]
    # Activations are in the GPU's memory.
    LEAST: ClassVar[int] = 1

    def __init__(
        self,
        handle: Handle,
        info: EngineInfo,
        shape: ImageShape,
        worker: Worker,
    ) -> None:
        super().__init__(handle, info, shape)
        self._worker = worker

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        worker = Worker(cls.__name__)
        opening = worker.submit(partial(cls._open_warm, model, precision, worker))
        try:
            return opening.result()
        except BaseException:
            # An interrupted caller does not wait for a build that takes minutes. The engine
            # that still comes out of it is closed, or it would hold the GPU's memory.
            worker.submit(partial(cls._close_late, opening))
            worker.stop(wait=opening.done())
            raise

    @classmethod
    def _open_warm(cls, model: ModelFile, precision: Precision, worker: Worker) -> Self:
        """Open the engine and compute an image of each size, so that no volume waits for that."""
        sticky.require_none()
        try:
            engine = cls._open(model, precision, worker)
        except Exception as error:
            sticky.note(error)
            raise
        try:
            engine._warm_up()
        except BaseException as error:
            engine._close()
            if isinstance(error, EngineRunError):
                raise BackendUnavailableError(f"the engine does not run here: {error}") from error
            raise
        return engine

    def _run(self, images: FloatArray) -> FloatArray:
        try:
            return super()._run(images)
        except Exception as error:
            sticky.note(error)
            raise

    def _warm_up(self) -> None:
        """Run batches of every shape that occurs; called on the worker's thread."""
        extents = [each if isinstance(each, tuple) else (each or 0,) for each in self._shape]
        # The largest first, whose memory the others share.
        for shape in product(reversed(self.padded_sizes), *map(reversed, extents)):
            if 0 in shape:
                return
            for _ in range(_WARM_RUNS):
                self._run(np.zeros(shape, np.float32))

    @property
    def padded_sizes(self) -> tuple[int, ...]:
        return (self.BATCH,)

    @classmethod
    @abstractmethod
    def _open(cls, model: ModelFile, precision: Precision, worker: Worker) -> Self:
        """Open the engine; called on the worker's thread."""

    @classmethod
    def _close_late(cls, opening: Future[Self]) -> None:
        """Close an engine that nobody waits for any more; called on the worker's thread."""
        if opening.exception() is None:
            opening.result()._close()

    def close(self) -> None:
        if sys.is_finalizing():
            # The thread is gone; the end of the process frees the GPU's memory.
            return
        try:
            super().close()
        finally:
            self._worker.stop()

    def _call(self, work: Callable[[], T]) -> T:
        if sys.is_finalizing():
            raise EngineRunError("the interpreter is shutting down")
        try:
            done = self._worker.submit(work)
        except WorkerStoppedError:
            # Only a closed engine has stopped its worker, so this work does not touch the GPU.
            return work()
        return done.result()
