"""From the places of frames to the grid of a volume, and the checks that there is one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.grid import Grid
from cnnres_infer.errors import GeometryError
from cnnres_infer.readers.dicom.frames import Frame, Place

# Vendors round direction cosines and positions differently from frame to frame.
_COSINE_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 1e-3
# In mm: frames that are nearer are at the same position; no slices are this thin.
SAME_MM = 0.05
# Slices may be off by this part of their distance, and this much in mm.
_GAP_PART, _GAP_MM = 0.01, 0.01
# A stack that leans more than this against the normal of its slices was acquired with a tilt.
_MAX_LEAN = 3.5e-3
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames that fill a volume.

    Attributes
    ----------
    grid
        Its grid: x along rows, y against the order of rows, z along the normal of
        the slices, so that an axial stack is in the order LAS, as converters to
        NIfTI write it.
    layers
        The frames of each slice, in the order of z; as many in each.
    """

    grid: Grid
    layers: tuple[tuple[Frame, ...], ...]


def distances(frames: Sequence[Frame], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions of frames along a normal in mm."""
    places = [frame.place for frame in frames]
    assert all(places)
    return np.array([place.position @ normal for place in places if place], np.float64)


def covers(frames: Sequence[Frame], others: Sequence[Frame]) -> bool:
    """Whether there is a frame at each position of other frames of the same orientation."""
    if not frames or any(frame.place is None for frame in (*frames, *others)):
        return False
    first = frames[0].place
    assert first is not None
    here, there = (distances(each, first.normal) for each in (frames, others))
    return bool(np.all(np.abs(there[:, None] - here[None, :]).min(axis=1) < SAME_MM))


def stack(frames: Sequence[Frame], name: str, *, single: bool) -> Stack:
    """Stack frames to a volume.

    Parameters
    ----------
    frames
        The frames, in any order.
    name
        What they are, for messages.
    single
        Whether there may be one frame only at each position.

    Raises
    ------
    GeometryError
        If positions are missing, if orientations or sizes differ, or if the slices
        are incomplete, duplicate, unequally spaced or tilted.
    """
    places = [frame.place for frame in frames if frame.place is not None]
    if len(places) < len(frames):
        raise _wrong(name, "frames without a position, orientation or pixel spacing")
    first = places[0]
    if any(_differs(place, first) for place in places):
        raise _wrong(name, "slices of different orientation or pixel spacing")
    if len({frame.shape for frame in frames}) > 1:
        raise _wrong(name, "slices of different size")
    along = distances(frames, first.normal)
    order = np.argsort(along, kind="stable")
    breaks = np.flatnonzero(np.diff(along[order]) > SAME_MM) + 1
    groups = [tuple(frames[i] for i in group) for group in np.split(order, breaks)]
    counts = {len(group) for group in groups}
    if single and counts != {1}:
        raise _wrong(name, f"{max(counts)} images at one position")
    if len(counts) > 1:
        raise _wrong(
            name, f"from {min(counts)} to {max(counts)} images at its positions: some are missing"
        )
    if len(groups) < 2:
        raise _wrong(name, "a single slice")
    corners = np.array([group[0].place.position for group in groups if group[0].place is not None])
    for group in groups:
        _check_same_place(group, name)
    step = _step(corners, first.normal, name)
    return Stack(_grid(first, corners[0], step, frames[0].shape, len(groups), name), tuple(groups))


def _grid(
    place: Place,
    corner: NDArray[np.float64],
    step: NDArray[np.float64],
    shape: tuple[int, int],
    slices: int,
    name: str,
) -> Grid:
    rows, columns = shape
    down = place.along_column * place.row_step
    lps = np.column_stack((place.along_row * place.column_step, -down, step))
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ lps
    affine[:3, 3] = _LPS_TO_RAS @ (corner + (rows - 1) * down)
    try:
        return Grid((columns, rows, slices), affine)
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}", code=error.code) from error


def _differs(place: Place, other: Place) -> bool:
    cosines = (place.along_row - other.along_row, place.along_column - other.along_column)
    steps = (place.row_step - other.row_step, place.column_step - other.column_step)
    return max(np.abs(each).max() for each in cosines) > _COSINE_TOLERANCE or (
        max(map(abs, steps)) > _SPACING_TOLERANCE
    )


def _check_same_place(group: Sequence[Frame], name: str) -> None:
    corners = np.array([frame.place.position for frame in group if frame.place is not None])
    if np.abs(corners - corners[0]).max() > 2 * SAME_MM:
        raise _wrong(name, "slices at one height that are shifted against each other")


def _step(
    corners: NDArray[np.float64], normal: NDArray[np.float64], name: str
) -> NDArray[np.float64]:
    """Vector from one slice to the next."""
    whole = corners[-1] - corners[0]
    step: NDArray[np.float64] = whole / (len(corners) - 1)
    distance = float(step @ normal)
    gaps = np.diff(corners @ normal)
    tolerance = _GAP_MM + _GAP_PART * distance
    if (np.abs(gaps - np.median(gaps)) > 2 * tolerance).any():
        raise _wrong(
            name,
            f"slices {gaps.min():.3g} to {gaps.max():.3g} mm apart: some are missing, or they are "
            "unequally spaced",
        )
    lean = np.linalg.norm(whole - (whole @ normal) * normal)
    if lean > _MAX_LEAN * (whole @ normal) + _GAP_MM:
        raise _wrong(name, "a gantry tilt: the slices are shifted against each other")
    expected = corners[0] + np.arange(len(corners))[:, None] * step
    if np.abs(corners - expected).max() > 2 * tolerance:
        raise _wrong(name, "slices that do not lie on a line at equal distances")
    return step


def _wrong(name: str, reason: str) -> GeometryError:
    return GeometryError(
        f"{name}: {reason}; export the complete series again, or choose another (`series`)",
        code=ErrorCode.DICOM_SLICES,
    )
