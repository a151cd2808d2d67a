"""Where a result comes from: the model, the engine and the engine's verification."""

from dataclasses import dataclass

from cnnres_infer.core.precision import Precision


@dataclass(frozen=True)
class EngineInfo:
    """Description of an open engine, part of every report.

    Attributes
    ----------
    backend
        Name in the table of backends.
    provider
        The runtime's own name of its device code, such as
        ``"CPUExecutionProvider"``.
    precision
        Precision of the convolutions.
    variant
        Variant of the bundle that was loaded.
    threads
        Number of CPU threads.
    versions
        Versions of the runtime, by library.
    warnings
        What anyone who uses its results should know.
    compiled_sha256
        SHA-256 of the compiled network that was loaded from the cache, or stored
        there; empty if there is none.
    """

    backend: str
    provider: str
    precision: Precision
    variant: str
    threads: int
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    compiled_sha256: str = ""


@dataclass(frozen=True)
class Skipped:
    """A backend and precision that would have been preferred, but was skipped.

    Attributes
    ----------
    backend, precision
        What was tried; the precision is ``"auto"`` if the backend is unusable
        in all of them.
    reason
        Why it was skipped.
    expected
        Whether it should have run on this machine: the backend is usable, and
        the bundle has a variant for it.
    """

    backend: str
    precision: str
    reason: str
    expected: bool


@dataclass(frozen=True)
class Verification:
    """The outcome of comparing an engine on this machine with PyTorch.

    Attributes
    ----------
    when
        Date and time of the comparison in UTC, ISO 8601.
    passed
        Whether the acceptance thresholds of the precision were met.
    slices
        Number of reference slices compared.
    dice_mean, dice_min, dice_pooled, largest_difference
        See `cnnres_infer.verification.agreement.Agreement`.
    key
        Hash of the conditions under which it is valid: machine, package,
        runtime, precision and bundle.
    cached
        Whether it is the result of an earlier run.
    unsaved
        Why it could not be saved for later runs; empty if it was saved.
    """

    when: str
    passed: bool
    slices: int
    dice_mean: float
    dice_min: float
    dice_pooled: float
    largest_difference: float
    key: str
    cached: bool = False
    unsaved: str = ""

    def __post_init__(self) -> None:
        figures = (self.dice_mean, self.dice_min, self.dice_pooled, self.largest_difference)
        if not isinstance(self.passed, bool) or not all(isinstance(f, float) for f in figures):
            raise TypeError("the figures of a verification must be numbers and passed a boolean")


@dataclass(frozen=True)
class Provenance:
    """How a result was produced.

    Attributes
    ----------
    model, version
        Name and version of the model.
    bundle_sha256
        SHA-256 of the bundle's ``model.json``.
    engine
        The engine that ran the network.
    verification
        The check that the engine agrees with PyTorch; None if it was not checked.
    skipped
        What would have been preferred to the engine.
    inputs
        Name of the volume of each modality.
    brain
        Origin of the brain mask; see `cnnres_infer.pipeline.brain.Brain`.
    """

    model: str
    version: str
    bundle_sha256: str
    engine: EngineInfo
    verification: Verification | None
    skipped: tuple[Skipped, ...]
    inputs: dict[str, str]
    brain: str
