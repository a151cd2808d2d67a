"""Cutting slices to their brains, so that only these are computed.

The box of a slice depends on its pixels alone, so that whoever computes the slice
cuts it in the same way. Boxes come in few sizes, and images of the same size are
computed together. The box of a mirrored slice is the mirrored box.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.batch import Box, SliceBatch, overlap

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
    return _boxes(SliceBatch(image[None], np.zeros(1, np.intp)), sides)[0]


def box_shape(image: FloatArray, sides: Sequence[int]) -> tuple[int, int]:
    """Height and width of the box around the brain of an image; see `crop_box`."""
    rows, columns = crop_box(image, sides)
    return rows.stop - rows.start, columns.stop - columns.start


def cropped(
    batches: Iterable[SliceBatch], sides: Sequence[int], batch_size: int
) -> Iterator[SliceBatch]:
    """Cut slices to their brains, and batch those of the same shape.

    Parameters
    ----------
    batches
        Batches of whole slices, or of the part of them that holds all of the brain.
    sides
        See `crop_box`.
    batch_size
        Maximum number of images in a batch.
    """
    waiting: defaultdict[tuple[int, int], list[_Cut]] = defaultdict(list)
    frame = (0, 0)
    for batch in batches:
        frame = batch.whole
        cuts = zip(batch.images, batch.z, batch.places, _boxes(batch, sides), strict=True)
        for cut in map(_Cut._make, cuts):
            rows, columns = cut.box
            alike = waiting[rows.stop - rows.start, columns.stop - columns.start]
            alike.append(cut)
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


class _Cut(NamedTuple):
    """An image (C, H, W), its slice, where it lies in it, and the box to cut out of the slice."""

    image: FloatArray
    z: np.intp
    place: Box
    box: Box


def _boxes(batch: SliceBatch, sides: Sequence[int]) -> list[Box]:
    """The box around the brain of each image; see `crop_box`."""
    bright = batch.images > _DARK
    spans = []
    for axis, extent in enumerate(batch.whole):
        profiles = np.logical_or.reduce(bright, axis=(1, 3 - axis))
        offsets = np.array([place[axis].start for place in batch.places], np.intp)
        spans.append(_spans(profiles, offsets, extent, sides))
    return list(zip(*spans, strict=True))


def _spans(
    profiles: BoolArray, offsets: NDArray[np.intp], extent: int, sides: Sequence[int]
) -> list[slice]:
    """For each profile (N, L), the span of one of the lengths around all of it that is occupied.

    Where no length is long enough, it is the last. All at once, since to look into each of many
    profiles takes longer than to find them.
    """
    first = profiles.argmax(axis=1) + offsets
    end = profiles.shape[1] - profiles[:, ::-1].argmax(axis=1) + offsets
    empty = ~profiles.any(axis=1)
    first[empty] = end[empty] = extent // 2
    lengths = np.array(sides)[np.minimum(np.searchsorted(sides, end - first), len(sides) - 1)]
    # Where it cannot be centred exactly, it is half a pixel closer to the image's middle.
    starts = (first + end - lengths + (first + end < extent)) // 2
    starts = np.clip(starts, 0, extent - lengths)
    return [slice(*ends) for ends in np.column_stack((starts, starts + lengths)).tolist()]


def _stacked(cuts: Sequence[_Cut], frame: tuple[int, int]) -> SliceBatch:
    first = cuts[0]
    shape = (extent.stop - extent.start for extent in first.box)
    images = np.zeros((len(cuts), len(first.image), *shape), np.float32)
    for target, cut in zip(images, cuts, strict=True):
        here, there = overlap(cut.box, cut.place)
        target[:, *here] = cut.image[:, *there]
    z, boxes = np.array([cut.z for cut in cuts]), tuple(cut.box for cut in cuts)
    return SliceBatch(images, z, boxes, frame)
