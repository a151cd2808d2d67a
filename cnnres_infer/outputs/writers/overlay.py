"""The overlay: slices with the outlines of lesions and brain, in radiological convention."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.mask import Mask
from cnnres_infer.core.result import Result
from cnnres_infer.core.text import counted
from cnnres_infer.core.volume import Volume
from cnnres_infer.host.blas import single_blas_thread
from cnnres_infer.pipeline.resample import resampling_matrix
from cnnres_infer.pipeline.slices.normalisation import ranked
from cnnres_infer.pipeline.voxels import voxels_in

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

# Makes these images as small as the default level, 6, but faster.
_PNG_LEVEL = 3
# In pixels, except for the margin around the brain.
_TILE_SIZE = 224
_LINE_HEIGHT = 26
_MARGIN_MM = 8.0
_COLUMNS = 5
_MAX_TILES = 20
_MAX_VOXELS_FOR_WHITE = 1 << 24
# Of positive voxels, what is not brighter than white.
_WHITE = 0.995
_MAX_TILES_WITHOUT_LESION = 10
OUTLINE = (255, 64, 48)
REJECTED = (255, 200, 60)
BRAIN = (70, 120, 190)
_DASH, _MIN_DASHES = 4, 3
_TEXT = (235, 235, 235)
_WARNING = (255, 200, 60)


class _Outline(NamedTuple):
    """A mask (rows, columns, slices), or one slice of it, and how its outline is drawn."""

    mask: BoolArray
    colour: tuple[int, int, int]
    dashed: bool = False

    def of_slice(self, z: int) -> "_Outline":
        return self._replace(mask=self.mask[:, :, z])


def render(result: Result) -> bytes:
    """Render the overlay as PNG."""
    return mosaic_png(result, [str(notice) for notice in result.warnings])


def mosaic_png(result: Result, warnings: Sequence[str] = ()) -> bytes:
    """The mosaic of a result as PNG, with warnings below it."""
    overlay = draw_overlay(result.volume, result.mask, warnings, result.rejected_mask, result.brain)
    content = io.BytesIO()
    overlay.save(content, format="PNG", compress_level=_PNG_LEVEL)
    return content.getvalue()


def draw_overlay(
    volume: Volume,
    mask: Mask,
    warnings: Sequence[str] = (),
    rejected: Mask | None = None,
    brain: Mask | None = None,
) -> "Image":
    """Draw a mosaic of the slices with lesions, from inferior to superior.

    The patient's right is on the left of each tile, anterior is at the top. If
    there are too many slices, an even selection is drawn, which includes the
    slice with the largest lesion area. If there is no lesion, slices through the
    whole volume are drawn.

    Parameters
    ----------
    volume
        The segmented volume.
    mask
        The lesion mask, on the volume's grid.
    warnings
        Warnings, written below the mosaic, one per line.
    rejected
        Lesions that were taken out of the mask, outlined in dashed yellow; None if
        there are none.
    brain
        The brain mask, outlined in blue; None to leave that out.
    """
    from PIL import Image, ImageDraw

    orientation = volume.grid.orientation

    def inside(each: Mask) -> BoolArray:
        # A view, since copies of a large volume would take most of the memory.
        return orientation.view(each.data).view(np.bool_)

    image, lesion = orientation.view(volume.data), inside(mask)
    out = None if rejected is None else inside(rejected)
    outlines = []
    if brain is not None:
        outlines.append(_Outline(inside(brain), BRAIN))
    if out is not None:
        outlines.append(_Outline(out, REJECTED, dashed=True))
    outlines.append(_Outline(lesion, OUTLINE))
    selected = _select_slices(lesion, out)
    tiles = _draw_tiles(image, outlines, selected, volume.grid)
    rows = -(-len(selected) // _COLUMNS)
    size = (_COLUMNS * _TILE_SIZE, rows * _TILE_SIZE + _LINE_HEIGHT * (1 + len(warnings)))
    overlay = Image.new("RGB", size)
    draw = ImageDraw.Draw(overlay)
    for position, (z, tile) in enumerate(zip(selected, tiles, strict=True)):
        row, column = divmod(position, _COLUMNS)
        corner = (column * _TILE_SIZE, row * _TILE_SIZE)
        overlay.paste(Image.fromarray(tile), corner)
        index = orientation.slice_index(z, image.shape[2])
        _draw_labels(draw, *corner, f"slice {index}")
    caption = f"{volume.name}: {_caption(mask, lesion, selected, rejected)}"
    if rejected is not None:
        caption += f"; dashed yellow: {rejected.volume_ml:.2f} ml rejected by ADC"
    if brain is not None:
        caption += "; blue: the brain"
    lines = [(f"{caption} | research use only, not a medical device", _TEXT)]
    lines += [(warning, _WARNING) for warning in warnings]
    for i, (text, colour) in enumerate(lines):
        draw.text((6, rows * _TILE_SIZE + 6 + i * _LINE_HEIGHT), text, fill=colour)
    return overlay


def _caption(
    mask: Mask, lesion: BoolArray, selected: list[int], rejected: Mask | None = None
) -> str:
    if not lesion.any():
        return "no lesion was found" if rejected is None else "no lesion is left"
    affected = np.asarray(lesion.any(axis=(0, 1)))
    shown = int(affected[selected].sum())
    count = int(affected.sum())
    if shown < count:
        return f"{mask.volume_ml:.2f} ml, {shown} of the {count} slices with lesion shown"
    return f"{mask.volume_ml:.2f} ml in {counted(count, 'slice')}"


def _select_slices(lesion: BoolArray, rejected: BoolArray | None) -> list[int]:
    """Indices of the slices to draw, from masks (rows, columns, slices).

    Slices with nothing but rejected lesions take the room that others leave.
    """
    area = lesion.sum(axis=(0, 1))
    selected = _some(area, _MAX_TILES)
    if rejected is not None:
        others = np.where(area > 0, 0, rejected.sum(axis=(0, 1)))
        selected = sorted(selected + _some(others, _MAX_TILES - len(selected)))
    if selected:
        return selected
    count = lesion.shape[2]
    even = np.linspace(0, count - 1, min(count, _MAX_TILES_WITHOUT_LESION))
    return sorted(set(even.astype(int).tolist()))


def _some(area: NDArray[np.int64], most: int) -> list[int]:
    """Indices of the slices with an area, or an even selection with the largest."""
    candidates = np.flatnonzero(area)
    if len(candidates) <= most:
        return [int(z) for z in candidates]
    if not most:
        return []
    chosen = candidates[np.linspace(0, len(candidates) - 1, most).astype(int)]
    largest = int(area.argmax())
    # In place of the nearest one, if it is not among them.
    chosen[np.abs(chosen - largest).argmin()] = largest
    return [int(z) for z in chosen]


def _draw_tiles(
    image: FloatArray, outlines: list[_Outline], selected: list[int], grid: Grid
) -> list[NDArray[np.uint8]]:
    """RGB tiles of the selected slices of an image (rows, columns, slices)."""
    spacing = [grid.spacing[axis] for axis in grid.orientation.axes]
    window = _window(image, selected, spacing)
    white = display_white(image)
    with single_blas_thread():
        return [
            _draw_tile(image[:, :, z], [each.of_slice(z) for each in outlines], window, white)
            for z in selected
        ]


def display_white(image: FloatArray) -> float:
    """The intensity that is shown as white; black is 0.

    Of a large image (rows, columns, slices), evenly chosen slices decide.
    """
    some = image[:, :, :: 1 + image.size // _MAX_VOXELS_FOR_WHITE]
    bright = voxels_in(some, some > 0)
    return ranked(bright, _WHITE * (bright.size - 1)) if bright.size else 1.0


def _window(image: FloatArray, selected: list[int], spacing: list[float]) -> tuple[FloatArray, ...]:
    """Resampling matrices from voxels to the pixels of a square tile around the brain."""
    projection = image[:, :, selected].max(axis=2)
    occupied = projection > 0.05 * projection.max()
    ranges = []
    for axis in (0, 1):
        indices = np.flatnonzero(occupied.any(axis=1 - axis))
        first, last = (indices[0], indices[-1]) if len(indices) else (0, image.shape[axis] - 1)
        ranges.append((float(first + last) / 2, (last - first + 1) * spacing[axis]))
    side = max(extent for _, extent in ranges) + 2 * _MARGIN_MM
    matrices = []
    for axis, (centre, _) in enumerate(ranges):
        step = side / _TILE_SIZE / spacing[axis]
        start = centre - step * (_TILE_SIZE - 1) / 2
        matrices.append(resampling_matrix(image.shape[axis], _TILE_SIZE, start, step))
    return tuple(matrices)


def _draw_tile(
    image: FloatArray, outlines: list[_Outline], window: tuple[FloatArray, ...], white: float
) -> NDArray[np.uint8]:
    """An RGB tile of a slice; later outlines are drawn over earlier ones."""
    rows, columns = window
    grey = np.clip(rows @ image @ columns.T / white, 0, 1) * 255
    tile = np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    for mask, colour, dashed in outlines:
        if mask.any():
            line = outline(_on_tile(mask, window))
            tile[_dashed(line) if dashed else line] = colour
    return tile


def _on_tile(mask: BoolArray, window: tuple[FloatArray, ...]) -> BoolArray:
    rows, columns = window
    inside: BoolArray = rows @ mask.astype(np.float32) @ columns.T >= 0.5
    return inside


def outline(inside: BoolArray) -> BoolArray:
    """Pixels of a mask (H, W) that have a neighbour outside of it (4-connectivity)."""
    padded = np.pad(inside, 1)
    interior = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: BoolArray = inside & ~interior
    return edge


def _dashed(line: BoolArray) -> BoolArray:
    """Leave gaps in a line (H, W), whichever way it runs, unless it is too short for dashes."""
    import cc3d

    height, width = line.shape
    rows, columns = np.arange(height)[:, None], np.arange(width)
    pieces = cc3d.connected_components(line, connectivity=8)
    short = np.bincount(pieces.ravel()) < _MIN_DASHES * 2 * _DASH
    dashed: BoolArray = line & (short[pieces] | ((columns + 2 * rows) % (2 * _DASH) < _DASH))
    return dashed


def _draw_labels(draw: "ImageDraw", x: int, y: int, text: str) -> None:
    middle = y + _TILE_SIZE // 2
    draw.text((x + 4, middle), "R", fill=_TEXT)
    draw.text((x + _TILE_SIZE - 12, middle), "L", fill=_TEXT)
    draw.text((x + 6, y + 4), text, fill=_TEXT)
