"""What comes out of a volume, and what made it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnnres_infer.codes import Notice
from cnnres_infer.core.volume import Probabilities, Volume
from cnnres_infer.engines import EngineInfo
from cnnres_infer.pipeline.mask import Lesion, Mask
from cnnres_infer.selection.select import PassedOver
from cnnres_infer.verification.self_check import Verification

if TYPE_CHECKING:
    from cnnres_infer.outputs.save import Saved


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
    passed_over
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
    passed_over: tuple[PassedOver, ...]
    inputs: dict[str, str]
    brain: str


@dataclass(frozen=True, eq=False)
class Result:
    """A segmented volume.

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
    """

    volume: Volume
    mask: Mask
    probabilities: Probabilities
    lesions: tuple[Lesion, ...]
    timings: dict[str, float]
    provenance: Provenance
    warnings: tuple[Notice, ...]

    def save(
        self,
        folder: Path | str,
        *,
        probabilities: bool = False,
        overlay: bool = True,
        overwrite: bool = False,
    ) -> "Saved":
        """Write mask, report and picture into a folder; see `cnnres_infer.outputs.save`."""
        from cnnres_infer.outputs.save import save

        return save(
            self,
            Path(folder),
            probabilities=probabilities,
            overlay=overlay,
            overwrite=overwrite,
        )
