"""The interface that every backend implements, and what they have in common."""

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import ClassVar, Generic, Protocol, Self, TypeAlias, TypeVar

import numpy as np

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.crops import computed
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.errors import (
    BackendUnavailableError,
    DeviceUnsupportedError,
    EngineError,
    EngineRunError,
    NotInstalledError,
)

T = TypeVar("T")
Handle = TypeVar("Handle")
# The model file variants for each precision, the best first.
Variants: TypeAlias = dict[Precision, tuple[str, ...]]
# Channels, heights and widths that an engine takes: one, several, or None for any.
ImageShape: TypeAlias = tuple[int | tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class Probe:
    """What a backend can do on this machine.

    Attributes
    ----------
    usable
        Whether the backend can be opened.
    reason
        Why it cannot be used, or the runtime that it uses.
    remedy
        The command or step that fixes it; empty if it is usable.
    versions
        Versions of the libraries and drivers that it uses.
    devices
        The devices that it can use.
    absent
        Whether it is unusable because this machine has no such device, so
        nothing needs fixing.
    incomplete
        Whether it is unusable because a part of it is not installed.
    """

    usable: bool
    reason: str
    remedy: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    absent: bool = False
    incomplete: bool = False

    @classmethod
    def failed(
        cls, error: BackendUnavailableError, versions: dict[str, str], devices: tuple[str, ...]
    ) -> Self:
        """The probe of a backend that cannot be used, for the reason in an error."""
        return cls(
            False,
            error.reason,
            error.remedy,
            versions,
            devices,
            absent=isinstance(error, DeviceUnsupportedError),
            incomplete=isinstance(error, NotInstalledError),
        )

    def require(self) -> None:
        """Raise `BackendUnavailableError` unless it is usable."""
        if not self.usable:
            raise BackendUnavailableError(self.reason, self.remedy)


@dataclass(frozen=True)
class ModelFile:
    """A model file.

    Attributes
    ----------
    variant
        Name of the variant in the bundle, such as ``"int8-cpu"``; it appears in reports.
    content
        Content of the ONNX file.
    sides
        Heights and widths that its images may have, in ascending order; empty
        if the file alone decides.
    use_cache
        Whether what was compiled from it earlier may be used, and kept for later.
    known_sha256
        SHA-256 of the content, in hex, if it was compared already; otherwise empty.
    """

    variant: str
    content: bytes
    sides: tuple[int, ...] = ()
    use_cache: bool = True
    known_sha256: str = ""

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the content, in hex."""
        return self.known_sha256 or hashlib.sha256(self.content).hexdigest()

    def image_shape(self, declared: Sequence[object]) -> ImageShape:
        """Shape (C, H, W) of the images that it may be run with.

        Parameters
        ----------
        declared
            The shape in the ONNX file; dynamic dimensions are not positive numbers.

        Raises
        ------
        BackendUnavailableError
            If the file lacks some of the `sides`.
        """
        channels, *extents = (n if isinstance(n, int) and n > 0 else None for n in declared)
        if len(self.sides) > 1 and any(extents):
            raise BackendUnavailableError(
                f"variant {self.variant} takes images of one size only, but the bundle cuts them "
                "to the brain; export the bundle again"
            )
        several = self.sides if len(self.sides) > 1 else next(iter(self.sides), None)
        return (channels, *(n or several for n in extents))


class Engine(Protocol):
    """A loaded network, which several threads may share.

    Attributes
    ----------
    VARIANTS
        The precisions that the backend offers, the preferred one first, and
        the model file variants for each: the first that the bundle contains is
        loaded.
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

    @property
    def sides(self) -> tuple[int, ...]:
        """Heights and widths that images may have, in ascending order, if there are several."""
        ...

    @property
    def padded_sizes(self) -> tuple[int, ...]:
        """The sizes that batches are padded to, each of which may run kernels of its own.

        Empty if batches are not padded.
        """
        ...

    @classmethod
    def probe(cls) -> Probe:
        """Check what is installed, without opening anything."""
        ...

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        """Load a model file.

        Raises
        ------
        BackendUnavailableError
            If the backend cannot be used on this machine, or not with these arguments.
        """
        ...

    def run(self, images: FloatArray) -> FloatArray:
        """Turn images (N, C, H, W) in [0, 1] into probabilities (N, 1, H, W), both float32.

        Several threads may call it at the same time. The images are not
        modified, and the returned array belongs to the caller. If N is 0, the
        result has shape (0, 1, H, W).

        Raises
        ------
        EngineRunError
            If the network does not accept the images, the backend fails, or the
            engine is closed. After a failure it may be called again.
        """
        ...

    def describe(self) -> EngineInfo:
        """Describe the engine; this also works after it was closed."""
        ...

    def close(self) -> None:
        """Release memory and devices; running calls of `run` finish, later ones fail.

        Closing a closed engine does nothing.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class SharedEngine(ABC, Generic[Handle]):
    """Common implementation of `Engine`.

    It checks images before they reach the runtime, translates all exceptions
    of the runtime to `EngineRunError`, and may be closed while threads use it.

    This class suits runtimes that several threads may call at the same time,
    and whose handle stays alive until the last call has returned. See `SerialEngine` and
    `cnnres_infer.engines.nvidia.thread` for the others.

    Parameters
    ----------
    handle
        The runtime's object that computes, such as a session.
    info
        What `describe` returns.
    shape
        Shape of an image, (C, H, W).

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

    def __init__(self, handle: Handle, info: EngineInfo, shape: ImageShape) -> None:
        self._handle: Handle | None = handle
        self._info = info
        self._shape = shape

    @property
    def sides(self) -> tuple[int, ...]:
        height = self._shape[1]
        return height if isinstance(height, tuple) else ()

    @property
    def padded_sizes(self) -> tuple[int, ...]:
        return ()

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
        """Compute the probabilities of one or more images; may raise any exception."""

    def _release(self, handle: Handle) -> None:
        """Release the resources of the handle; never raises."""

    def _call(self, work: Callable[[], T]) -> T:
        """Run a function that uses the handle, when and on the thread that the runtime requires."""
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
        """Reject images that some runtimes would convert or broadcast silently."""
        fits = images.ndim == 4 and all(map(_fits, images.shape[1:], self._shape))
        if not fits or images.dtype != np.float32:
            expected = ", ".join(map(_text, self._shape))
            raise EngineRunError(
                f"the images are {images.dtype} {images.shape}; give float32 (N, {expected})"
            )


class SerialEngine(SharedEngine[Handle]):
    """An engine whose runtime accepts one call at a time, so threads take turns."""

    def __init__(self, handle: Handle, info: EngineInfo, shape: ImageShape) -> None:
        super().__init__(handle, info, shape)
        self._lock = threading.Lock()

    def _call(self, work: Callable[[], T]) -> T:
        with self._lock:
            return work()


def run_checked(engine: Engine, images: FloatArray) -> FloatArray:
    """Run images and reject an output that cannot be probabilities.

    Raises
    ------
    EngineRunError
        If the backend fails, or its output is not finite or has the wrong shape.
    """
    output = engine.run(images)
    expected = (len(images), 1, *images.shape[2:])
    if output.shape != expected or not np.isfinite(output).all():
        raise EngineRunError(
            f"the backend returned no probabilities (shape {output.shape}, or values that are not "
            "finite): choose another `backend` or `precision`",
            code=ErrorCode.ENGINE_OUTPUT,
        )
    return output


def run_all(engine: Engine, images: FloatArray) -> FloatArray:
    """Run whole slices in batches of the engine's preferred size.

    Parameters
    ----------
    images
        (N, C, H, W) in [0, 1]. They are cut to the brain if the engine takes
        images of several sizes.

    Returns
    -------
    array
        (N, 1, H, W), zero where nothing was computed.
    """
    return computed(engine.run, images, engine.sides, engine.BATCH)


def bounds(extents: int | tuple[int, ...] | None) -> tuple[int, int, int]:
    """Smallest, middle and largest of the heights or widths that an engine takes."""
    if not extents:
        raise BackendUnavailableError(
            "the file leaves the sizes of its images open, and none are given; use it in a bundle"
        )
    several = extents if isinstance(extents, tuple) else (extents,)
    return several[0], several[len(several) // 2], several[-1]


def _fits(extent: int, expected: int | tuple[int, ...] | None) -> bool:
    return extent in expected if isinstance(expected, tuple) else expected in (None, extent)


def _text(expected: int | tuple[int, ...] | None) -> str:
    if isinstance(expected, tuple):
        return " or ".join(map(str, expected))
    return "any" if expected is None else str(expected)
