"""The report: lesions, warnings and provenance of a result, as JSON."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from cnnres_infer import __version__
from cnnres_infer.core.result import Result
from cnnres_infer.host.machine import peak_memory_mb, versions

REPORT_FORMAT = 1
_LIBRARIES = ("numpy", "nibabel", "connected-components-3d")


def render(result: Result) -> bytes:
    """Render the report as indented JSON."""
    return to_json(report(result))


def to_json(entry: dict[str, Any]) -> bytes:
    """Convert a report to the content of a file."""
    return (json.dumps(entry, indent=2) + "\n").encode()


def refusal(entry: dict[str, Any]) -> dict[str, Any]:
    """Report of a case that could not be segmented.

    Parameters
    ----------
    entry
        The input, the status and the error.
    """
    return {
        "format": REPORT_FORMAT,
        "research_use_only": True,
        **entry,
        "versions": {"cnnres-infer": __version__, **versions(*_LIBRARIES)},
    }


def report(result: Result) -> dict[str, Any]:
    """Report of a result, ready to be converted to JSON."""
    provenance = result.provenance
    return {
        "format": REPORT_FORMAT,
        "status": "done",
        "research_use_only": True,
        "inputs": provenance.inputs,
        "grid": {
            "shape": list(result.volume.grid.shape),
            "spacing_mm": [round(step, 6) for step in result.volume.grid.spacing],
            "affine": result.volume.grid.affine.tolist(),
        },
        "lesions": {
            "count": len(result.lesions),
            "volume_ml": result.mask.volume_ml,
            "each": [asdict(lesion) for lesion in result.lesions],
            "area_mm2_by_slice": _area_by_slice(result),
        },
        "warnings": [asdict(notice) for notice in result.warnings],
        "model": {
            "name": provenance.model,
            "version": provenance.version,
            "bundle_sha256": provenance.bundle_sha256,
        },
        "engine": asdict(provenance.engine),
        "passed_over": [asdict(each) for each in provenance.skipped],
        "verification": (
            asdict(provenance.verification)
            if provenance.verification
            else {"skipped": "the engine was not checked before this run"}
        ),
        "brain": provenance.brain,
        "timings_s": {stage: round(spent, 4) for stage, spent in result.timings.items()},
        "peak_memory_mb": peak_memory_mb(),
        "versions": {"cnnres-infer": __version__, **versions(*_LIBRARIES)},
    }


def _area_by_slice(result: Result) -> dict[str, float]:
    """Lesion area in mm2 by voxel index of the axial slice, without slices that have none."""
    rows, columns, _ = result.mask.grid.orientation.axes
    vectors = result.mask.grid.affine[:3, :3]
    pixel_mm2 = float(np.linalg.norm(np.cross(vectors[:, rows], vectors[:, columns])))
    counts = np.count_nonzero(result.mask.data, axis=(rows, columns))
    return {str(k): round(float(counts[k] * pixel_mm2), 3) for k in np.flatnonzero(counts)}
