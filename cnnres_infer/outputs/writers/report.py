"""The report: lesions, warnings and provenance of a result, as JSON."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from cnnres_infer import __version__
from cnnres_infer.codes import Notice
from cnnres_infer.core.diffusion import DiffusionCheck
from cnnres_infer.core.failure import Failure
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.jsonable import dumps
from cnnres_infer.core.mask import Lesion
from cnnres_infer.core.provenance import Provenance
from cnnres_infer.core.result import Result
from cnnres_infer.host.machine import versions

REPORT_FORMAT = 1
_LIBRARIES = ("numpy", "nibabel", "connected-components-3d")


@dataclass(frozen=True)
class Report:
    """What is known of a result, without its volumes.

    Attributes
    ----------
    grid
        Where the voxels lie.
    lesions
        Those of the mask, the largest first.
    rejected
        Those that were taken out of the mask, the largest first.
    volume_ml
        Volume of the mask in ml.
    area_mm2_by_slice
        Area of the mask in mm2 in each axial slice that has any, by its voxel index.
    diffusion
        How the lesions were checked for restricted diffusion.
    warnings
        What a reader of the mask should know.
    provenance
        What made it.
    timings_s
        Seconds spent in each stage.
    peak_memory_mb
        Peak memory of the process in MB (10^6 bytes); None where it is not known.
    omitted
        Output formats that were asked for but not written, and why.
    """

    grid: Grid
    lesions: tuple[Lesion, ...]
    rejected: tuple[Lesion, ...]
    volume_ml: float
    area_mm2_by_slice: dict[str, float]
    diffusion: DiffusionCheck
    warnings: tuple[Notice, ...]
    provenance: Provenance
    timings_s: dict[str, float]
    peak_memory_mb: float | None
    omitted: dict[str, str]

    @classmethod
    def of(cls, result: Result) -> Self:
        """The report of a result."""
        return cls(
            grid=result.volume.grid,
            lesions=result.lesions,
            rejected=result.rejected,
            volume_ml=result.mask.volume_ml,
            area_mm2_by_slice=_areas(result),
            diffusion=result.diffusion,
            warnings=result.warnings,
            provenance=result.provenance,
            timings_s={stage: round(spent, 4) for stage, spent in result.timings.items()},
            peak_memory_mb=result.peak_memory_mb,
            omitted=result.omitted,
        )

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        made = self.provenance
        return {
            "format": REPORT_FORMAT,
            "status": "done",
            "research_use_only": True,
            "inputs": made.inputs,
            "grid": {
                "shape": self.grid.shape,
                "spacing_mm": [round(step, 6) for step in self.grid.spacing],
                "affine": self.grid.affine.tolist(),
            },
            "lesions": {
                "count": len(self.lesions),
                "volume_ml": self.volume_ml,
                "each": self.lesions,
                "area_mm2_by_slice": self.area_mm2_by_slice,
                "rejected": self.rejected,
            },
            "diffusion": self.diffusion,
            "warnings": self.warnings,
            "model": {
                "name": made.model,
                "version": made.version,
                "bundle_sha256": made.bundle_sha256,
            },
            "engine": made.engine,
            "passed_over": made.skipped,
            "verification": (
                made.verification or {"skipped": "the engine was not checked before this run"}
            ),
            "brain": made.brain,
            "not_written": self.omitted,
            "timings_s": self.timings_s,
            "peak_memory_mb": self.peak_memory_mb,
            "versions": _versions(),
        }


@dataclass(frozen=True)
class Refusal:
    """What is known of a volume that has no mask.

    Attributes
    ----------
    input
        The volume.
    error
        Why not.
    """

    input: Path
    error: Failure

    def to_json(self) -> dict[str, Any]:
        """The refusal as an entry of a batch."""
        return {"input": self.input, "status": "failed", "error": self.error}


def render(result: Result) -> bytes:
    """The report as indented JSON."""
    return _content(Report.of(result))


def render_refusal(refusal: Refusal) -> bytes:
    """The report of a refused volume as indented JSON."""
    return _content(
        {
            "format": REPORT_FORMAT,
            "research_use_only": True,
            **refusal.to_json(),
            "versions": _versions(),
        }
    )


def _content(report: Any) -> bytes:
    return f"{dumps(report)}\n".encode()


def _versions() -> dict[str, str]:
    return {"cnnres-infer": __version__, **versions(*_LIBRARIES)}


def _areas(result: Result) -> dict[str, float]:
    rows, columns, _ = result.mask.grid.orientation.axes
    vectors = result.mask.grid.affine[:3, :3]
    pixel_mm2 = float(np.linalg.norm(np.cross(vectors[:, rows], vectors[:, columns])))
    counts = np.count_nonzero(result.mask.data, axis=(rows, columns))
    return {str(k): round(float(counts[k] * pixel_mm2), 3) for k in np.flatnonzero(counts)}
