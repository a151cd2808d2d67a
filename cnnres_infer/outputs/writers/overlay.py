"""The picture of a result: slices with lesion, outlined, in radiological convention."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.mask import Mask
from cnnres_infer.core.result import Result
from cnnres_infer.core.volume import Volume
from cnnres_infer.host.blas import single_blas_thread
from cnnres_infer.pipeline.resample import resampling

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

# As small as the usual 6 makes these pictures, in less time.
_PNG_LEVEL = 3
_TILE = 224
_COLUMNS = 5
_MOST_TILES = 20
_EMPTY_TILES = 10
_MARGIN_MM = 8.0
_CAPTION = 26
OUTLINE = (255, 64, 48)
_TEXT = (235, 235, 235)
_WARNING = (255, 200, 60)


def render(result: Result) -> bytes:
    """The picture as PNG."""
    picture = io.BytesIO()
    warnings = [str(notice) for notice in result.warnings]
    drawn = draw_overlay(result.volume, result.mask, warnings)
    drawn.save(picture, format="PNG", compress_level=_PNG_LEVEL)
    return picture.getvalue()


def draw_overlay(volume: Volume, mask: Mask, warnings: Sequence[str] = ()) -> "Image":
    """Draw a mosaic of the slices with lesion, from inferior to superior.

    The patient's right is on the left of each tile, anterior is up. Of more
    slices than the mosaic holds, an even choice is shown, the one with the
    largest lesion area among them. Without a lesion, slices through the whole
    volume are shown. Warnings stand below, one a line.
    """
    from PIL import Image, ImageDraw

    orientation = volume.grid.orientation
    image, lesion = orientation.view(volume.data), orientation.view(mask.data) > 0
    spacing = [volume.grid.spacing[axis] for axis in orientation.axes]
    chosen = _choose(lesion)
    window = _window(image, chosen, spacing)
    white = float(np.percentile(image[image > 0], 99.5)) if (image > 0).any() else 1.0
    rows = -(-len(chosen) // _COLUMNS)
    height = rows * _TILE + _CAPTION * (1 + len(warnings))
    picture = Image.new("RGB", (_COLUMNS * _TILE, height))
    with single_blas_thread():
        tiles = [_tile(image[:, :, z], lesion[:, :, z], window, white) for z in chosen]
    for place, (z, tile) in enumerate(zip(chosen, tiles, strict=True)):
        row, column = divmod(place, _COLUMNS)
        picture.paste(Image.fromarray(tile), (column * _TILE, row * _TILE))
        index = orientation.slice_index(z, image.shape[2])
        _label(ImageDraw.Draw(picture), column * _TILE, row * _TILE, f"slice {index}")
    caption = f"{volume.name}: {_caption(mask, lesion, chosen)}"
    ImageDraw.Draw(picture).text(
        (6, rows * _TILE + 6), f"{caption} | research use only, no medical device", fill=_TEXT
    )
    for line, warning in enumerate(warnings, start=1):
        below = rows * _TILE + 6 + line * _CAPTION
        ImageDraw.Draw(picture).text((6, below), warning, fill=_WARNING)
    return picture


def _caption(mask: Mask, lesion: BoolArray, chosen: list[int]) -> str:
    if not lesion.any():
        return "no lesion found"
    count = int(lesion.any(axis=(0, 1)).sum())
    return f"{mask.volume_ml:.1f} ml, {len(chosen)} of {count} slices with lesion"


def _choose(lesion: BoolArray) -> list[int]:
    area = lesion.sum(axis=(0, 1))
    candidates = np.flatnonzero(area)
    if not len(candidates):
        count = lesion.shape[2]
        return sorted(set(np.linspace(0, count - 1, min(count, _EMPTY_TILES)).astype(int).tolist()))
    if len(candidates) <= _MOST_TILES:
        return [int(z) for z in candidates]
    even = np.linspace(0, len(candidates) - 1, _MOST_TILES - 1).astype(int)
    return sorted({*(int(z) for z in candidates[even]), int(area.argmax())})


def _window(image: FloatArray, chosen: list[int], spacing: list[float]) -> tuple[FloatArray, ...]:
    """Resampling matrices from voxels to a square tile around what is shown."""
    shown = image[:, :, chosen].max(axis=2)
    occupied = shown > 0.05 * shown.max()
    ranges = []
    for axis in (0, 1):
        where = np.flatnonzero(occupied.any(axis=1 - axis))
        first, last = (where[0], where[-1]) if len(where) else (0, image.shape[axis] - 1)
        ranges.append((float(first + last) / 2, (last - first + 1) * spacing[axis]))
    side = max(extent for _, extent in ranges) + 2 * _MARGIN_MM
    matrices = []
    for axis, (centre, _) in enumerate(ranges):
        step = side / _TILE / spacing[axis]
        start = centre - step * (_TILE - 1) / 2
        matrices.append(resampling(image.shape[axis], _TILE, start, step))
    return tuple(matrices)


def _tile(
    image: FloatArray,
    lesion: BoolArray,
    window: tuple[FloatArray, ...],
    white: float,
) -> NDArray[np.uint8]:
    rows, columns = window
    grey = np.clip(rows @ image @ columns.T / white, 0, 1) * 255
    tile = np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    inside = rows @ lesion.astype(np.float32) @ columns.T >= 0.5
    tile[outline(inside)] = OUTLINE
    return tile


def outline(inside: BoolArray) -> BoolArray:
    """Pixels of a mask (H, W) that touch its outside."""
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: BoolArray = inside & ~core
    return edge


def _label(draw: "ImageDraw", x: int, y: int, text: str) -> None:
    middle = y + _TILE // 2
    draw.text((x + 4, middle), "R", fill=_TEXT)
    draw.text((x + _TILE - 12, middle), "L", fill=_TEXT)
    draw.text((x + 6, y + 4), text, fill=_TEXT)
