"""The small interface behind which every backend stands."""

from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self, TypeAlias

import numpy as np

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.errors import BackendUnavailableError, EngineRunError

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


class ClosedOnExit:
    """Is closed at the end of a ``with`` block."""

    def close(self) -> None:
        """Let go of memory and devices."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Engine(Protocol):
    """A loaded network.

    Attributes
    ----------
    VARIANTS
        The precisions that the backend offers, the one to prefer first, and
        the variants of the network's file for each: of those that there are,
        the first is loaded.
    BATCH
        Slices that it takes at once with best effect.
    LEAST
        Slices whose memory in this process it needs, however few it is given.
    """

    VARIANTS: ClassVar[Variants]
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

        Later runs leave the returned array as it is.

        Raises
        ------
        EngineRunError
            If the backend fails.
        """
        ...

    def describe(self) -> EngineInfo:
        """Tell what it is."""
        ...

    def close(self) -> None:
        """Let go of memory and devices; the engine cannot run after."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


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
    """Run images (N, C, H, W) in batches of the engine's liking; returns (N, 1, H, W)."""
    first = range(0, len(images), engine.BATCH)
    return np.concatenate([engine.run(images[i : i + engine.BATCH]) for i in first])
