"""The report of a verification."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeAlias

from cnnres_infer import __version__
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.case import Case
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import Engine
from cnnres_infer.host import machine
from cnnres_infer.verification.agreement import GATES, Comparison, Gate, compare
from cnnres_infer.verification.reference import VolumeReference, compare_volume
from cnnres_infer.verification.self_check import record

# Label, measured value, required value.
Row: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True)
class BundleId:
    """The identity of a bundle: name, version, and the hash of its ``model.json``."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class MachineInfo:
    """A machine: processor, number of usable cores, operating system."""

    processor: str
    cores: int
    system: str

    @classmethod
    def here(cls) -> Self:
        """Describe this machine."""
        return cls(machine.processor(), machine.usable_cores(), machine.system())


@dataclass(frozen=True, eq=False)
class VerificationReport:
    """A comparison of an engine with PyTorch, and its provenance.

    Attributes
    ----------
    comparison
        The comparison, image by image.
    time_utc
        Date and time in ISO 8601 format, UTC.
    engine
        The engine that ran.
    bundle
        The bundle that it ran.
    machine
        The machine that it ran on.
    versions
        Versions of this package, Python and NumPy.
    outputs
        The files that were written.
    """

    comparison: Comparison
    time_utc: str
    engine: EngineInfo
    bundle: BundleId
    machine: MachineInfo
    versions: dict[str, str]
    outputs: tuple[Path, ...] = ()

    @classmethod
    def of(cls, comparison: Comparison, engine: EngineInfo, bundle: Bundle) -> Self:
        """Report a comparison just made on this machine."""
        return cls(
            comparison,
            datetime.now(UTC).isoformat(timespec="seconds"),
            engine,
            BundleId(bundle.spec.name, bundle.spec.version, bundle.digest),
            MachineInfo.here(),
            {"cnnres-infer": __version__, **machine.versions("numpy")},
        )

    @property
    def gate(self) -> Gate:
        """The gate for the engine's precision."""
        return GATES[self.engine.precision]

    @property
    def passed(self) -> bool:
        """Whether the comparison passes the gate."""
        return self.comparison.passes(self.gate)

    @property
    def status(self) -> str:
        """``"passed"`` or ``"failed"``."""
        return "passed" if self.passed else "failed"

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON, without the images."""
        return {
            "status": self.status,
            "subject": self.comparison.subject,
            "time_utc": self.time_utc,
            "engine": self.engine,
            "bundle": self.bundle,
            "machine": self.machine,
            "versions": self.versions,
            "gate": self.gate,
            "agreement": self.comparison,
            "outputs": self.outputs,
        }

    def figures(self) -> Iterator[Row]:
        """Yield the rows shown in tables: label, measured value, required value."""
        gate, agreement = self.gate, self.comparison.to_json()
        for label, key, least in (
            ("mean Dice, slices with lesion", "dice_mean", gate.mean),
            ("5th percentile, lesions over 50 pixels", "dice_p5_large", gate.tail),
            ("Dice of all pixels", "dice_pooled", gate.pooled),
            ("Dice of the volume's masks", "dice_volume_mask", gate.pooled),
            ("1st percentile of Dice", "dice_p1", ""),
            ("smallest Dice", "dice_min", ""),
        ):
            if key in agreement:
                yield label, f"{agreement[key]:.5f}", f"at least {least}" if least else ""
        for label, key, most in (
            ("mean difference of probability, lesion", "lesion_difference", f"at most {gate.off}"),
            ("largest difference of probability", "largest_difference", ""),
            ("mean difference of probability", "mean_difference", ""),
        ):
            yield label, f"{agreement[key]:.3g}", most
        for label, key in (
            ("flipped pixels", "flipped_pixels"),
            ("slices: all", "slices"),
            ("slices: empty in both, not counted", "both_empty"),
            ("slices: empty in one, counted as 0", "one_empty"),
        ):
            yield label, f"{agreement[key]}", ""


def verify(
    bundle: Bundle, engine: Engine, case: tuple[Case, VolumeReference] | None = None
) -> VerificationReport:
    """Compare an engine with PyTorch's stored outputs.

    Parameters
    ----------
    bundle
        The bundle that the engine runs.
    engine
        The open engine.
    case
        A case and PyTorch's outputs for it; None for the bundle's reference
        slices, whose outcome is stored as the engine's last verification.

    Returns
    -------
    VerificationReport
        The comparison and its provenance.

    Raises
    ------
    BundleError
        If the bundle's reference cannot be trusted.
    ReferenceFileError
        If the stored outputs belong to another volume or model.
    VerificationError
        If the volume yields different slices on this machine.
    EngineRunError
        If the engine fails.
    """
    comparison = compare_volume(engine, bundle, *case) if case else compare(engine, bundle)
    if case is None:
        record(comparison.agreement, engine, bundle)
    return VerificationReport.of(comparison, engine.describe(), bundle)
