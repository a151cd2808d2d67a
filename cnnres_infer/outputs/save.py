"""What a result leaves behind: mask, probability map, report and picture."""

import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnres_infer import __version__
from cnnres_infer.core.volume import volume_bytes
from cnnres_infer.host.atomic import check_free, exclusive, unfinished, write_all
from cnnres_infer.host.machine import peak_memory_mb, versions
from cnnres_infer.pipeline.slices import axial_axes

if TYPE_CHECKING:
    from cnnres_infer.core.result import Result

REPORT_FORMAT = 1
# As small as the usual 6 makes these pictures, in less time.
_PNG_LEVEL = 3
_LARGEST_REPORT = 1 << 24
_LIBRARIES = ("numpy", "nibabel", "connected-components-3d")


@dataclass(frozen=True)
class Saved:
    """Paths of the outputs of one volume; None where one was not asked for."""

    mask: Path
    report: Path
    probabilities: Path | None = None
    overlay: Path | None = None

    def all(self) -> tuple[Path, ...]:
        """The paths that there are, the mask last: where it stands, all is written.

        The report is first: where it stands without a mask, the run was
        refused or killed, or the mask was taken away since.
        """
        paths = (self.report, self.probabilities, self.overlay, self.mask)
        return tuple(path for path in paths if path is not None)

    def entry(self) -> dict[str, Any]:
        """The report as it was written, and where everything is."""
        report: dict[str, Any] = json.loads(self.report.read_bytes())
        return {**report, "outputs": [str(path) for path in self.all()]}


def plan(folder: Path, name: str, *, probabilities: bool, overlay: bool) -> Saved:
    """Name the outputs of a volume."""
    return Saved(
        mask=folder / f"{name}_lesion_mask.nii.gz",
        report=folder / f"{name}_report.json",
        probabilities=folder / f"{name}_lesion_prob.nii.gz" if probabilities else None,
        overlay=folder / f"{name}_overlay.png" if overlay else None,
    )


def save(
    result: "Result",
    folder: Path,
    *,
    probabilities: bool = False,
    overlay: bool = True,
    overwrite: bool = False,
) -> Saved:
    """Write the outputs of a result, all of them or none, the mask last.

    With `overwrite`, whatever a former run left for this volume goes first.

    Returns
    -------
    Saved
        The paths written.

    Raises
    ------
    OutputExistsError
        If one stands already and `overwrite` is False; none is written then.
    OutputError
        If the folder cannot be written to.
    """
    name = result.volume.name
    outputs = make_room(
        folder, name, probabilities=probabilities, overlay=overlay, overwrite=overwrite
    )
    contents = {path: _content(path, outputs, result) for path in outputs.all()}
    every = _every(folder, name)
    with exclusive(folder, every.all()):
        _remove_leftovers(every)
        write_all(contents, overwrite, former=every.all())
    return outputs


def make_room(
    folder: Path, name: str, *, probabilities: bool, overlay: bool, overwrite: bool
) -> Saved:
    """Plan the outputs of a volume, and remove what a refused or killed run left of them.

    Raises
    ------
    OutputExistsError
        If one stands already and `overwrite` is False.
    OutputError
        If one cannot be a path here.
    """
    outputs = plan(folder, name, probabilities=probabilities, overlay=overlay)
    every = _every(folder, name)
    if folder.is_dir() and _leftovers(every):
        with exclusive(folder, every.all()):
            _remove_leftovers(every)
    check_free(outputs.all(), overwrite)
    return outputs


def save_refusal(folder: Path, name: str, entry: dict[str, Any]) -> None:
    """Leave a report of why a volume has no mask, unless outputs of it stand.

    The next run of the volume replaces it.

    Raises
    ------
    OutputError
        If the folder cannot be written to.
    """
    outputs = _every(folder, name)
    content = {
        "format": REPORT_FORMAT,
        "research_use_only": True,
        **entry,
        "versions": {"cnnres-infer": __version__, **versions(*_LIBRARIES)},
    }
    with exclusive(folder, outputs.all()):
        _remove_leftovers(outputs)
        if not outputs.report.exists() and not outputs.mask.exists():
            write_all({outputs.report: (json.dumps(content, indent=2) + "\n").encode()})


def _every(folder: Path, name: str) -> Saved:
    return plan(folder, name, probabilities=True, overlay=True)


def _remove_leftovers(outputs: Saved) -> None:
    for path in reversed(_leftovers(outputs)):
        path.unlink(missing_ok=True)


def _leftovers(outputs: Saved) -> tuple[Path, ...]:
    """Name what may go unasked: the report of a refusal, or what a killed run left.

    A finished run whose mask was taken away since has a report as a killed one
    has, but no unfinished mask.
    """
    if os.path.lexists(outputs.mask):
        return ()
    try:
        with outputs.report.open("rb") as file:
            found = json.loads(file.read(_LARGEST_REPORT))
    except (OSError, ValueError, RecursionError):
        return ()
    if not isinstance(found, dict) or "research_use_only" not in found:
        return ()
    if found.get("status") == "failed":
        return (outputs.report,)
    masks = unfinished([outputs.mask])
    return (*masks, *outputs.all()) if masks else ()


def _content(path: Path, outputs: Saved, result: "Result") -> bytes:
    if path == outputs.mask:
        return volume_bytes(result.mask.data, result.mask.grid)
    if path == outputs.probabilities:
        return volume_bytes(result.probabilities.data, result.probabilities.grid)
    if path == outputs.overlay:
        from cnnres_infer.outputs.writers.overlay import draw_overlay

        picture = io.BytesIO()
        warnings = [str(notice) for notice in result.warnings]
        drawn = draw_overlay(result.volume, result.mask, warnings)
        drawn.save(picture, format="PNG", compress_level=_PNG_LEVEL)
        return picture.getvalue()
    return (json.dumps(report(result), indent=2) + "\n").encode()


def report(result: "Result") -> dict[str, Any]:
    """All that is known of a result, ready for JSON."""
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
            "area_mm2_by_slice": _areas(result),
        },
        "warnings": [asdict(notice) for notice in result.warnings],
        "model": {
            "name": provenance.model,
            "version": provenance.version,
            "bundle_sha256": provenance.bundle_sha256,
        },
        "engine": asdict(provenance.engine),
        "passed_over": [asdict(each) for each in provenance.passed_over],
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


def _areas(result: "Result") -> dict[str, float]:
    """Lesion area in mm2 of each axial slice that has any, by its voxel index."""
    (rows, columns, _), _ = axial_axes(result.mask.grid)
    vectors = result.mask.grid.affine[:3, :3]
    pixel = float(np.linalg.norm(np.cross(vectors[:, rows], vectors[:, columns])))
    counts = np.count_nonzero(result.mask.data, axis=(rows, columns))
    return {str(k): round(float(counts[k] * pixel), 3) for k in np.flatnonzero(counts)}
