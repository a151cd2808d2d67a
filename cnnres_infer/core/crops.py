"""Cutting slices to their brains, so that only these are computed.

The box of a slice depends on its pixels alone, so that whoever computes the slice
cuts it in the same way. Boxes come in few sizes, and images of the same size are
computed together. The box of a mirrored slice is the mirrored box.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.batch import Box, SliceBatch

# Pixels that are not brighter may be what rounding left behind where there is no brain.
_DARK = 0.01


def crop_box(image: FloatArray, sides: Sequence[int]) -> Box:
    """The box around the brain of an image.

    Parameters
    ----------
    image
        (C, H, W) in [0, 1], zero outside the brain.
    sides
        The heights and widths that a box may have, in ascending order. H and W
        must be even and not below the last one.
    """
    return crop_boxes(image[None], sides)[0]


def crop_boxes(images: FloatArray, sides: Sequence[int]) -> list[Box]:
    """The box around the brain of each image (N, C, H, W); see `crop_box`."""
    bright = images > _DARK
    rows, columns = (np.logical_or.reduce(bright, axis=axes) for axes in ((1, 3), (1, 2)))
    return [
        (_span(own_rows, sides), _span(own_columns, sides))
        for own_rows, own_columns in zip(rows, columns, strict=True)
    ]


def box_shape(image: FloatArray, sides: Sequence[int]) -> tuple[int, int]:
    """Height and width of the box around the brain of an image; see `crop_box`."""
    rows, columns = crop_box(image, sides)
    return rows.stop - rows.start, columns.stop - columns.start


def cropped(
    batches: Iterable[SliceBatch], sides: Sequence[int], batch_size: int
) -> Iterator[SliceBatch]:
    """Cut whole slices to their brains, and batch those of the same shape.

    Parameters
    ----------
    batches
        Batches of whole slices.
    sides
        See `crop_box`.
    batch_size
        Maximum number of images in a batch.
    """
    waiting: defaultdict[tuple[int, int], list[tuple[FloatArray, np.intp, Box]]]
    waiting = defaultdict(list)
    frame = (0, 0)
    for batch in batches:
        frame = (batch.images.shape[2], batch.images.shape[3])
        boxes = crop_boxes(batch.images, sides)
        for image, z, box in zip(batch.images, batch.z, boxes, strict=True):
            crop = image[:, *box]
            alike = waiting[crop.shape[1], crop.shape[2]]
            alike.append((crop, z, box))
            if len(alike) == batch_size:
                yield _stacked(alike, frame)
                alike.clear()
    for alike in waiting.values():
        if alike:
            yield _stacked(alike, frame)


def computed(
    network: Callable[[FloatArray], FloatArray],
    images: FloatArray,
    sides: Sequence[int],
    batch_size: int,
) -> FloatArray:
    """Compute whole slices, cut to their brains if `sides` are several.

    Parameters
    ----------
    network
        Maps images (N, C, H, W) to probabilities (N, 1, H, W).
    images
        float32 (N, C, H, W) in [0, 1].
    sides, batch_size
        See `cropped`.

    Returns
    -------
    array
        float32 (N, 1, H, W), zero where nothing was computed.
    """
    if len(sides) < 2 or not len(images):
        starts = range(0, max(1, len(images)), batch_size)
        return np.concatenate([network(images[i : i + batch_size]) for i in starts])
    output = np.zeros((len(images), 1, *images.shape[2:]), np.float32)
    for batch in cropped([SliceBatch(images, np.arange(len(images)))], sides, batch_size):
        output[batch.z] = batch.framed(network(batch.images))
    return output


def _span(occupied: NDArray[np.bool_], sides: Sequence[int]) -> slice:
    """The span of one of the lengths around all that is occupied, as far as one is long enough."""
    extent = len(occupied)
    places = np.flatnonzero(occupied)
    first, end = (int(places[0]), int(places[-1]) + 1) if len(places) else (extent // 2,) * 2
    length = next((side for side in sides if side >= end - first), sides[-1])
    # Where it cannot be centred exactly, it is half a pixel closer to the image's middle.
    towards_end = first + end < extent
    start = (first + end - length + towards_end) // 2
    start = min(max(start, 0), extent - length)
    return slice(start, start + length)


def _stacked(
    images: Sequence[tuple[FloatArray, np.intp, Box]], frame: tuple[int, int]
) -> SliceBatch:
    pixels, z, boxes = zip(*images, strict=True)
    return SliceBatch(np.stack(pixels), np.array(z), boxes, frame)
