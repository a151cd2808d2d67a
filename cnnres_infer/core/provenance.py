"""What made a result: model, engine, and what shows that the engine can be trusted."""

from dataclasses import dataclass

from cnnres_infer.core.precision import Precision


@dataclass(frozen=True)
class EngineInfo:
    """What an open engine is; goes into every report.

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
    precision: Precision
    variant: str
    threads: int
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """What would have been preferred to the engine that runs.

    Attributes
    ----------
    backend, precision
        What was tried; ``"auto"`` where the backend can run none.
    reason
        Why it was skipped.
    expected
        Whether it should have run here: the backend is usable, and the bundle
        has a variant for it.
    """

    backend: str
    precision: str
    reason: str
    expected: bool


@dataclass(frozen=True)
class Verification:
    """A comparison of an engine on this machine with PyTorch's outputs.

    Attributes
    ----------
    when
        Date and time of it, in UTC.
    passed
        Whether the precision's gate was reached.
    slices
        How many reference slices were compared.
    dice_mean, dice_min, dice_pooled, largest_difference
        As in `cnnres_infer.verification.agreement.Agreement`.
    key
        Hash of what it holds for: machine, package, runtime, precision, bundle.
    cached
        Whether it is of an earlier run.
    unsaved
        Why it could not be kept for later runs; empty where it was.
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
            raise TypeError("the figures of a verification are numbers, and passed is a boolean")


@dataclass(frozen=True)
class Provenance:
    """What made a result.

    Attributes
    ----------
    model, version, bundle_sha256
        The model, and the hash of its bundle's ``model.json``.
    engine
        What computed.
    verification
        What shows that it computes what the network does; None if unchecked.
    skipped
        What would have been preferred to it.
    inputs
        Name of the volume of each modality.
    brain
        Where the brain mask came from; see `cnnres_infer.pipeline.brain.Brain`.
    """

    model: str
    version: str
    bundle_sha256: str
    engine: EngineInfo
    verification: Verification | None
    skipped: tuple[Skipped, ...]
    inputs: dict[str, str]
    brain: str
