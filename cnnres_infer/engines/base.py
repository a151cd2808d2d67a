"""The small interface behind which every backend stands."""

from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self

from cnnres_infer.core.volume import FloatArray
from cnnres_infer.errors import BackendUnavailableError


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
class EngineInfo:
    """What an opened engine is; goes into every report.

    Attributes
    ----------
    backend, provider, precision
        What computes: the name in the table of backends, the runtime's own
        name for its device code, and the precision of the convolutions.
    variant
        The bundle's variant that was loaded.
    threads
        Threads that it computes with.
    versions
        Versions of the runtime.
    warnings
        What a reader of its results should know.
    """

    backend: str
    provider: str
    precision: str
    variant: str
    threads: int
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()


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
        the bundle's variant for each.
    BATCH
        Slices that it takes at once with best effect.
    LEAST
        Slices whose memory in this process it needs, however few it is given.
    """

    VARIANTS: ClassVar[dict[str, str]]
    BATCH: ClassVar[int]
    LEAST: ClassVar[int]

    @classmethod
    def probe(cls) -> Probe:
        """Tell what is there, without opening anything."""
        ...

    @classmethod
    def open(cls, model: bytes, precision: str, threads: int) -> Self:
        """Load a variant of the network.

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
