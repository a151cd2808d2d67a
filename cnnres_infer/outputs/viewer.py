"""The interactive viewer of the HTML report: NiiVue, and the volume and masks that it shows."""

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.result import Result
from cnnres_infer.outputs.page import asset, data_block, escape
from cnnres_infer.outputs.writers.overlay import OUTLINE, REJECTED, display_white
from cnnres_infer.readers.nifti.write import volume_bytes

_FOLDER = "niivue"
# Of base64, in bytes: a page of a usual volume stays below 6 MB, and browsers open the largest.
_MAX_16_BIT = 2_200_000
_MAX_EMBEDDED = 48_000_000
_LEVELS_16_BIT, _LEVELS_8_BIT = (1 << 16) - 1, (1 << 8) - 1


@dataclass(frozen=True)
class Viewer:
    """What a page needs to show a result interactively.

    Attributes
    ----------
    section
        HTML of the viewer, or of why there is none.
    scripts
        JavaScript to run after it; none without a viewer.
    licences
        Licences of the viewer and of what is bundled with it; empty without.
    """

    section: str
    scripts: tuple[str, ...] = ()
    licences: str = ""


def make_viewer(result: Result) -> Viewer:
    """Embed the volume and its masks, with the program that shows them, if that is possible."""
    program, reason = _program()
    if not program:
        return _without(reason)
    voxels, how = _embedded(result.volume.data, result.volume.grid)
    if len(voxels) > _MAX_EMBEDDED:
        return _without(
            f"the volume would take {len(voxels) / 1e6:.0f} MB in this page, more than the "
            f"{_MAX_EMBEDDED / 1e6:.0f} MB that browsers open without trouble. Open the NIfTI "
            "files in another viewer."
        )
    data = data_block("viewer-data", {"volume": voxels, **_settings(result)})
    section = _SECTION.format(
        how=escape(how), rejected="" if result.rejected_mask is None else _REJECTED
    )
    scripts = (program, asset("viewer.js"))
    return Viewer(f"{section}\n{data}", scripts, asset(f"{_FOLDER}/LICENSE"))


def version_or_problem() -> tuple[str, str]:
    """Version of the viewer, empty with the reason if this build does not have it."""
    program, reason = _program()
    source = json.loads(asset(f"{_FOLDER}/source.json"))
    return (f"NiiVue {source['version']}" if program else ""), reason


def _program() -> tuple[str, str]:
    """JavaScript of NiiVue; empty with the reason if this build does not have it."""
    source = json.loads(asset(f"{_FOLDER}/source.json"))
    name = source["member"].rpartition("/")[2]
    try:
        program = asset(f"{_FOLDER}/{name}")
    except FileNotFoundError:
        return "", "this build of cnnres-infer has no interactive viewer."
    if hashlib.sha256(program.encode()).hexdigest() != source["sha256"]:
        return (
            "",
            f"{name} is not the file of NiiVue {source['version']}: install cnnres-infer again.",
        )
    return program, ""


def _without(reason: str) -> Viewer:
    return Viewer(f'<p class="missing">No viewer: {escape(reason)}</p>')


def _embedded(data: FloatArray, grid: Grid) -> tuple[str, str]:
    """A volume as base64 of compressed NIfTI, and how its intensities are stored, in words."""
    low, high = float(data.min()), float(data.max())
    as_is = data.astype(np.uint16) if low >= 0 and high <= _LEVELS_16_BIT else None
    if as_is is not None and np.array_equal(as_is, data):
        exact = _base64(as_is, grid)
        if len(exact) <= _MAX_16_BIT:
            return exact, "The intensities are those of the volume."
    scaled = _base64(*_quantised(data, low, high, _LEVELS_16_BIT, grid))
    if len(scaled) <= _MAX_16_BIT:
        return scaled, "The intensities are those of the volume, in 65,536 steps."
    white = min(high, 2 * display_white(data))
    coarse = _base64(*_quantised(data, min(low, 0.0), white, _LEVELS_8_BIT, grid))
    return coarse, (
        f"To keep this page small, the intensities are stored in 256 steps up to {white:.4g}; "
        "what is brighter is shown as bright as that. The files written beside it are exact."
    )


def _quantised(
    data: FloatArray, low: float, high: float, levels: int, grid: Grid
) -> tuple[NDArray[np.unsignedinteger[Any]], Grid, tuple[float, float]]:
    """Intensities from `low` to `high` in steps, the grid, and the slope and intercept."""
    step = (high - low) / levels
    kind = np.uint8 if levels <= _LEVELS_8_BIT else np.uint16
    stored = np.rint((np.clip(data, low, high) - low) / step).astype(kind)
    return stored, grid, (step, low)


def _base64(
    voxels: NDArray[np.generic], grid: Grid, scale: tuple[float, float] | None = None
) -> str:
    # Not the header of the input, which may hold transforms that viewers take differently.
    return base64.b64encode(volume_bytes(voxels, grid, scale=scale)).decode()


def _settings(result: Result) -> dict[str, Any]:
    data, grid = result.volume.data, result.volume.grid
    masks = [{"id": "lesions", "colour": OUTLINE, "nifti": _base64(result.mask.data, grid)}]
    if result.rejected_mask is not None:
        voxels = result.rejected_mask.data
        masks.append({"id": "rejected", "colour": REJECTED, "nifti": _base64(voxels, grid)})
    orientation = grid.orientation
    # NiiVue turns volumes so that indices rise to the right, to anterior and to superior.
    posterior, left, superior = (
        {"voxel_axis": axis, "count": grid.shape[axis], "reversed": flip}
        for axis, flip in zip(orientation.axes, orientation.flips, strict=True)
    )
    return {
        "masks": masks,
        "window": [0.0, display_white(data)],
        "range": [min(0.0, float(data.min())), float(data.max())],
        "axes": {
            "axial": superior,
            # `Orientation` counts rows from anterior and columns from the right.
            "coronal": {**posterior, "reversed": not posterior["reversed"]},
            "sagittal": {**left, "reversed": not left["reversed"]},
        },
        "affine": grid.affine.tolist(),
        "start": _start(result),
    }


def _start(result: Result) -> list[float]:
    """Voxel to look at first: in the largest lesion, or the middle of the volume."""
    for lesion in (*result.lesions, *result.rejected):
        return list(lesion.centre_voxel)
    return [(extent - 1) / 2 for extent in result.volume.grid.shape]


_REJECTED = """\
<label><input type="checkbox" id="show-rejected" checked>
<span class="swatch rejected"></span> rejected</label>"""

_SECTION = """\
<noscript><p class="missing">No viewer: it needs JavaScript.</p></noscript>
<p id="viewer-missing" class="missing" hidden></p>
<div id="viewer" hidden>
<div class="controls">
<label>View <select id="view"><option value="multiplanar">three planes</option>
<option value="axial">axial</option><option value="coronal">coronal</option>
<option value="sagittal">sagittal</option></select></label>
<label>Slice <input type="range" id="slice" min="0" step="1"><output for="slice"></output></label>
<label>Window centre <input type="range" id="centre"><output for="centre"></output></label>
<label>Window width <input type="range" id="width"><output for="width"></output></label>
<label>Mask opacity <input type="range" id="opacity" min="0" max="100" value="50">\
<output for="opacity"></output></label>
<div class="toggles">
<label><input type="checkbox" id="show-lesions" checked>
<span class="swatch lesions"></span> lesions</label>
{rejected}
<button type="button" id="reset">Reset</button>
</div>
</div>
<div id="stage"><canvas id="canvas" tabindex="0" role="img" \
aria-label="Slices of the volume with the lesion mask; the controls above move through them">\
</canvas></div>
<p id="position" role="status" aria-live="off"></p>
</div>
<p class="note">The patient&#x27;s right is on the left. Click to move the crosshair, then scroll to
change the slice; drag with the right button to change the window. {how}</p>"""
