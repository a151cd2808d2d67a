"""The result of segmenting a case."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from cnnres_infer.codes import Notice
from cnnres_infer.core.diffusion import DiffusionCheck
from cnnres_infer.core.mask import Lesion, Mask
from cnnres_infer.core.provenance import Provenance
from cnnres_infer.core.text import counted
from cnnres_infer.core.volume import Probabilities, Volume


@dataclass(frozen=True)
class Saved:
    """The files written for a case.

    Attributes
    ----------
    paths
        Paths by output format. The mask comes last: if it exists, so do all others.
    omitted
        See `Result.omitted`.
    """

    paths: dict[str, Path]
    omitted: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Path:
        return self.paths[name]


class Saver(Protocol):
    """Writes a result to files; see `cnnres_infer.outputs.save.save`."""

    def __call__(
        self,
        result: "Result",
        folder: Path,
        formats: Sequence[str] | None,
        *,
        overwrite: bool,
        identify: bool,
    ) -> Saved: ...


class OnDemand(Protocol):
    """Computes lesion probabilities when they are asked for."""

    def probabilities(self) -> Probabilities:
        """Compute them."""


@dataclass(frozen=True, eq=False)
class Result:
    """The segmentation of a case.

    Attributes
    ----------
    volume
        The segmented volume (the DWI if there is also a FLAIR).
    mask
        Lesion mask on the volume's own grid.
    brain
        The brain mask on the same grid: lesions were searched for inside it alone.
    on_demand
        Computes the `probabilities`.
    lesions
        The lesions of the mask in descending order of size.
    timings
        Seconds per stage. The time of the engine is the time spent waiting for
        it: slices are prepared and reassembled while it computes.
    provenance
        How the result was produced.
    warnings
        What anyone who uses the mask should know, each with a stable code.
    diffusion
        How the lesions were checked for restricted diffusion. The mask and its
        volume are without what was rejected.
    rejected
        Lesions that were taken out of the mask since their diffusion is not
        restricted, in descending order of size.
    rejected_mask
        Mask of these; None if there are none.
    saver
        Writes the result to files.
    sources
        `Volume.source` of each input, that of `volume` first.
    formats
        Output formats that are written, while they are.
    omitted
        Output formats that were asked for but have nothing to be written, and why;
        known once they are saved.
    peak_memory_mb
        Peak memory of the process in MB (10^6 bytes) by then; None where it is
        not known.
    """

    volume: Volume
    mask: Mask
    brain: Mask
    on_demand: OnDemand = field(repr=False)
    lesions: tuple[Lesion, ...]
    timings: dict[str, float]
    provenance: Provenance
    warnings: tuple[Notice, ...]
    saver: Saver = field(repr=False)
    diffusion: DiffusionCheck
    rejected: tuple[Lesion, ...] = ()
    rejected_mask: Mask | None = None
    sources: tuple[object, ...] = field(default=(), repr=False)
    formats: tuple[str, ...] = ()
    omitted: dict[str, str] = field(default_factory=dict)
    peak_memory_mb: float | None = None

    def __repr__(self) -> str:
        parts = [f"{counted(len(self.lesions), 'lesion')} of {self.mask.volume_ml:.2f} ml"]
        parts += [f"{len(self.rejected)} rejected"] if self.rejected else []
        parts += [counted(len(self.warnings), "warning"), str(self.mask.grid)]
        return f"<Result of {self.volume.name!r}: {', '.join(parts)}>"

    @cached_property
    def probabilities(self) -> Probabilities:
        """Lesion probabilities on the volume's own grid, without any rejection.

        They are computed when they are first asked for, and then kept.
        """
        return self.on_demand.probabilities()

    def save(
        self,
        folder: Path | str,
        formats: Sequence[str] | None = None,
        *,
        overwrite: bool = False,
        identify: bool = False,
    ) -> Saved:
        """Write outputs to a folder: all of them or none.

        Parameters
        ----------
        folder
            Output folder; created if it does not exist.
        formats
            Names of output formats, of the table in `cnnres_infer.outputs.writers`;
            by default those marked so there.
        overwrite
            Overwrite existing outputs of the case, and delete those in other
            formats.
        identify
            Name the patient in the HTML report, as the DICOM study does.

        Returns
        -------
        Saved
            The paths written.

        Raises
        ------
        UsageError
            If a format is unknown or cannot be made of this input, or `identify` is set
            and none of them names a patient.
        OutputExistsError
            If an output already exists and `overwrite` is False.
        OutputError
            If the folder cannot be written to.
        """
        return self.saver(self, Path(folder), formats, overwrite=overwrite, identify=identify)
