"""What comes out of a case."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cnnres_infer.codes import Notice
from cnnres_infer.core.mask import Lesion, Mask
from cnnres_infer.core.provenance import Provenance
from cnnres_infer.core.volume import Probabilities, Volume


@dataclass(frozen=True)
class Saved:
    """Where the outputs of one case were written.

    Attributes
    ----------
    paths
        By the name of their format, the mask last: where it exists, all is written.
    """

    paths: dict[str, Path]

    def __getitem__(self, name: str) -> Path:
        return self.paths[name]


class Saver(Protocol):
    """Writes a result; see `cnnres_infer.outputs.save.save`."""

    def __call__(
        self, result: "Result", folder: Path, formats: Sequence[str], *, overwrite: bool
    ) -> Saved: ...


DEFAULT_FORMATS = ("mask", "report", "overlay")


@dataclass(frozen=True, eq=False)
class Result:
    """A segmented case.

    Attributes
    ----------
    volume
        The volume that was segmented (the DWI where there are two).
    mask, probabilities
        On the volume's own grid.
    lesions
        The largest first.
    timings
        Seconds spent in each stage; those of the engine are what was waited for
        it, since slices are cut and put back while it computes.
    provenance
        What made it.
    warnings
        What a reader of the mask should know, with its stable code.
    saver
        Writes it to files.
    peak_memory_mb
        Peak memory of the process in MB (10^6 bytes) by then; None where it is
        not known.
    """

    volume: Volume
    mask: Mask
    probabilities: Probabilities
    lesions: tuple[Lesion, ...]
    timings: dict[str, float]
    provenance: Provenance
    warnings: tuple[Notice, ...]
    saver: Saver = field(repr=False)
    peak_memory_mb: float | None = None

    def save(
        self,
        folder: Path | str,
        formats: Sequence[str] = DEFAULT_FORMATS,
        *,
        overwrite: bool = False,
    ) -> Saved:
        """Write outputs into a folder, all of them or none.

        Parameters
        ----------
        formats
            Names of what to write: ``"mask"``, ``"probabilities"``,
            ``"report"``, ``"overlay"``.
        overwrite
            Whether existing outputs may be replaced.

        Returns
        -------
        Saved
            The paths written.

        Raises
        ------
        UsageError
            If there is no such format.
        OutputExistsError
            If an output already exists and `overwrite` is False.
        OutputError
            If the folder cannot be written to.
        """
        return self.saver(self, Path(folder), formats, overwrite=overwrite)
