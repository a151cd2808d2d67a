"""A small picture of a case: the slice with most of the lesion, outlined."""

import io

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.result import Result
from cnnres_infer.outputs.writers.overlay import OUTLINE, outline

_SIDE = 128
_JPEG_QUALITY = 80
# Of the brightest voxel, below which there is no head.
_BACKGROUND = 0.05


def thumbnail(result: Result) -> bytes:
    """Draw the slice with the largest lesion area, or the middle one, as a square JPEG.

    Anterior is at the top, the patient's right on the left.
    """
    from PIL import Image

    orientation = result.volume.grid.orientation
    image = orientation.view(result.volume.data)
    lesion = orientation.view(result.mask.data) > 0
    area = lesion.sum(axis=(0, 1))
    z = int(area.argmax()) if area.any() else image.shape[2] // 2
    rows, columns = _occupied(image[:, :, z])
    grey = _grey(image[rows, columns, z])
    height, width = (
        (part.stop - part.start) * result.volume.grid.spacing[axis]
        for part, axis in zip((rows, columns), orientation.axes, strict=False)
    )
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))
    inside = Image.fromarray(lesion[rows, columns, z]).resize(size, Image.Resampling.NEAREST)
    coloured = np.repeat(picture[:, :, None], 3, axis=2)
    coloured[outline(np.asarray(inside))] = OUTLINE
    square = Image.new("RGB", (_SIDE, _SIDE))
    square.paste(Image.fromarray(coloured), ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
    content = io.BytesIO()
    square.save(content, format="JPEG", quality=_JPEG_QUALITY)
    return content.getvalue()


def _grey(image: FloatArray) -> NDArray[np.uint8]:
    white = float(np.percentile(image[image > 0], 99.5)) if (image > 0).any() else 1.0
    grey: NDArray[np.uint8] = (np.clip(image / white, 0, 1) * 255).astype(np.uint8)
    return grey


def _occupied(image: FloatArray) -> tuple[slice, slice]:
    """The rectangle of a slice (rows, columns) that holds the head; all of an empty one."""
    head: BoolArray = image > _BACKGROUND * image.max()
    found = []
    for axis in (0, 1):
        indices = np.flatnonzero(head.any(axis=1 - axis))
        first, last = (indices[0], indices[-1]) if len(indices) else (0, image.shape[axis] - 1)
        found.append(slice(int(first), int(last) + 1))
    return found[0], found[1]
