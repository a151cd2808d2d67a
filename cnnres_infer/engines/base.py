"""The small interface behind which every backend stands."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Generic, Protocol, Self, TypeAlias, TypeVar

import numpy as np

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.errors import BackendUnavailableError, EngineError, EngineRunError

T = TypeVar("T")
Handle = TypeVar("Handle")
# Of each precision, the variants of the network's file that serve, the best first.
Variants: TypeAlias = dict[Precision, tuple[str, ...]]


@dataclass(frozen=True)
class Probe:
    """What a backend can do on this machine.

    Attributes
    ----------
    usable
        Whether it can be opened.
    reason
        Why not, or what it runs on.
    remedy
        The command or step that mends it; empty where it is usable.
    versions
        Versions of what it is made of.
    devices
        The devices that it could use.
    absent
        Whether it is not usable since this machine has no such device, so that
        nothing need be mended.
    """

    usable: bool
    reason: str
    remedy: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    absent: bool = False

    def require(self) -> None:
        """Raise `BackendUnavailableError` unless it is usable."""
        if not self.usable:
            raise BackendUnavailableError(self.reason, self.remedy)


@dataclass(frozen=True)
class ModelFile:
    """A file of the network.

    Attributes
    ----------
    variant
        Which of a model's files it is, as ``"int8-cpu"``; goes into reports.
    content
        The ONNX file itself.
    """

    variant: str
    content: bytes


class Engine(Protocol):
    """A loaded network, which threads may share.

    Attributes
    ----------
    VARIANTS
        The precisions that the backend offers, the one to prefer first, and
        the variants of the network's file for each: of those that there are,
        the first is loaded.
    RIVALS
        The precisions whose order of preference is measured on each machine,
        rather than taken from `VARIANTS`; empty where that order always holds.
    CACHE_FOLDER
        The folder of the user's cache that it writes to; None if it has none.
    BATCH
        The batch size, in slices, at which it is fastest.
    LEAST
        The number of slices whose memory it takes in this process, even for
        smaller batches.
    """

    VARIANTS: ClassVar[Variants]
    RIVALS: ClassVar[tuple[Precision, ...]]
    CACHE_FOLDER: ClassVar[str | None]
    BATCH: ClassVar[int]
    LEAST: ClassVar[int]

    @classmethod
    def probe(cls) -> Probe:
        """Tell what is there, without opening anything."""
        ...

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        """Load a file of the network.

        Raises
        ------
        BackendUnavailableError
            If the backend cannot be used here, or not as asked.
        """
        ...

    def run(self, images: FloatArray) -> FloatArray:
        """Images (N, C, H, W) in [0, 1] to probabilities (N, 1, H, W), both float32.

        Threads may call it at the same time. The images stay as they are, and
        the returned array belongs to the caller. No images give no
        probabilities: an array (0, 1, H, W).

        Raises
        ------
        EngineRunError
            If the images are not what the network takes, the backend fails, or
            the engine is closed. After a failure it may be tried again.
        """
        ...

    def describe(self) -> EngineInfo:
        """Describe the engine; works after it was closed, too."""
        ...

    def close(self) -> None:
        """Release memory and devices; calls of `run` under way finish, later ones fail.

        Closing an engine again does nothing.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class SharedEngine(ABC, Generic[Handle]):
    """What every engine does in the same way; see `Engine`.

    It checks images before the runtime sees them, turns whatever the runtime
    raises into an `EngineRunError`, and may be closed while threads use it.

    This class suits runtimes that threads may call at the same time, and whose
    handle lives on until the last call has returned. See `SerialEngine` and
    `cnnres_infer.engines.nvidia.thread` for the others.

    Parameters
    ----------
    handle
        What the runtime computes with.
    info
        What `describe` returns.
    shape
        Shape of an image, (C, H, W); None where any size will do.

    Attributes
    ----------
    RUNTIME
        The runtime's name in messages.
    RIVALS, CACHE_FOLDER
        Defaults of the attributes of `Engine`: no rivals, and no cache.
    """

    RUNTIME: ClassVar[str]
    RIVALS: ClassVar[tuple[Precision, ...]] = ()
    CACHE_FOLDER: ClassVar[str | None] = None

    def __init__(self, handle: Handle, info: EngineInfo, shape: tuple[int | None, ...]) -> None:
        self._handle: Handle | None = handle
        self._info = info
        self._shape = shape

    def run(self, images: FloatArray) -> FloatArray:
        return self._call(partial(self._run, images))

    def describe(self) -> EngineInfo:
        return self._info

    def close(self) -> None:
        self._call(self._close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def _compute(self, handle: Handle, images: FloatArray) -> FloatArray:
        """Compute the probabilities of at least one image; may raise anything."""

    def _release(self, handle: Handle) -> None:
        """Release what the handle holds; never fails."""

    def _call(self, work: Callable[[], T]) -> T:
        """Do work that uses the handle, when and where the runtime allows it."""
        return work()

    def _run(self, images: FloatArray) -> FloatArray:
        handle = self._handle
        if handle is None:
            raise EngineRunError("the engine is closed")
        self._check(images)
        if not len(images):
            return np.empty((0, 1, *images.shape[2:]), np.float32)
        try:
            return self._compute(handle, images)
        except EngineError:
            raise
        except Exception as error:
            raise EngineRunError(f"{self.RUNTIME} failed: {error}") from error

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._release(handle)

    def _check(self, images: FloatArray) -> None:
        """Refuse images that some runtimes would convert or broadcast without a word."""
        fits = images.ndim == 4 and all(
            expected in (None, n) for n, expected in zip(images.shape[1:], self._shape, strict=True)
        )
        if not fits or images.dtype != np.float32:
            expected = ", ".join("any" if n is None else str(n) for n in self._shape)
            raise EngineRunError(
                f"images of {images.dtype} {images.shape}; give float32 (N, {expected})"
            )


class SerialEngine(SharedEngine[Handle]):
    """An engine whose runtime takes one call at a time: threads wait for their turn."""

    def __init__(self, handle: Handle, info: EngineInfo, shape: tuple[int | None, ...]) -> None:
        super().__init__(handle, info, shape)
        self._turn = threading.Lock()

    def _call(self, work: Callable[[], T]) -> T:
        with self._turn:
            return work()


def run_checked(engine: Engine, images: FloatArray) -> FloatArray:
    """Run images, and refuse what no network can have said, whatever the backend makes of it.

    Raises
    ------
    EngineRunError
        If the backend fails, or its output is not finite or of another shape.
    """
    output = engine.run(images)
    expected = (len(images), 1, *images.shape[2:])
    if output.shape != expected or not np.isfinite(output).all():
        raise EngineRunError(
            f"the backend gave no probabilities (shape {output.shape}, or not finite): choose "
            "another `backend` or `precision`",
            code=ErrorCode.ENGINE_OUTPUT,
        )
    return output


def run_all(engine: Engine, images: FloatArray) -> FloatArray:
    """Run images (N, C, H, W) in batches that suit the engine; returns (N, 1, H, W)."""
    starts = range(0, max(1, len(images)), engine.BATCH)
    return np.concatenate([engine.run(images[i : i + engine.BATCH]) for i in starts])
