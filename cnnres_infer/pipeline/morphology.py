"""Binary morphology: dilation and erosion by balls, main components, and filled holes."""

import math

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.host.deadline import check_time
from cnnres_infer.pipeline.box import bounding_box, widened
from cnnres_infer.pipeline.chunks import chunks


def ball(radius: float, spacing: NDArray[np.float64]) -> NDArray[np.intp]:
    """Structuring element: voxel offsets (K, 3) within `radius` in mm, in ascending order.

    Along an axis of infinite spacing, the only offset is zero.
    """
    reach = (radius / spacing).astype(np.intp)
    offsets = np.argwhere(np.ones(2 * reach + 1)) - reach
    distance = np.linalg.norm(offsets * np.where(reach, spacing, 0.0), axis=1)
    within: NDArray[np.intp] = offsets[distance <= radius]
    return within


def dilate(mask: BoolArray, offsets: NDArray[np.intp]) -> BoolArray:
    """Dilate by a ball, composed of discs, and these of lines along the last axis.

    What the mask occupies becomes one long integer with a bit for each voxel,
    which shifts and ORs move and unite whole. The padding is as wide as anything
    is moved, and keeps it out of the next row or plane.
    """
    reach = offsets.max(axis=0).tolist()
    box = bounding_box(mask)
    origin = [extent.start - n for extent, n in zip(box, reach, strict=True)]

    def in_padded(part: tuple[slice, ...]) -> tuple[slice, ...]:
        pairs = zip(part, origin, strict=True)
        return tuple(slice(extent.start - first, extent.stop - first) for extent, first in pairs)

    # Many times as fast as `numpy.pad`, for masks as small as these.
    content = mask[box]
    padded = np.zeros(np.add(content.shape, 2 * np.array(reach)), np.bool_)
    padded[in_padded(box)] = content
    _, rows, columns = padded.shape
    bits = _to_bits(padded)
    by_line = [bits]
    for n in range(1, reach[2] + 1):
        by_line.append(by_line[-1] | _both_ways(bits, n))
    # Lines from the middle of the ball to one side of it, since it is symmetric.
    half_lengths: dict[tuple[int, int], int] = {}
    for plane, row, half_length in offsets[(offsets >= 0).all(axis=1)].tolist():
        half_lengths[plane, row] = half_length
    discs = [0] * (reach[0] + 1)
    for (plane, row), half_length in half_lengths.items():
        discs[plane] |= _both_ways(by_line[half_length], row * columns)
    dilated = 0
    for plane, disc in enumerate(discs):
        dilated |= _both_ways(disc, plane * rows * columns)
    result = np.zeros(mask.shape, np.bool_)
    target = widened(box, reach, mask.shape)
    result[target] = _from_bits(dilated, padded.shape)[in_padded(target)]
    return result


def erode(mask: BoolArray, offsets: NDArray[np.intp]) -> BoolArray:
    """Erode by a ball; what lies beyond the edges does not count."""
    result = np.zeros(mask.shape, np.bool_)
    window = widened(bounding_box(mask), offsets.max(axis=0).tolist(), mask.shape)
    result[window] = ~dilate(~mask[window], offsets)
    return result


def main_components(mask: BoolArray, least: float) -> BoolArray:
    """The largest component, and those of at least this fraction of its size."""
    import cc3d

    box = bounding_box(mask)
    labels, count = cc3d.connected_components(mask[box], connectivity=6, return_N=True)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = np.zeros_like(mask)
    kept[box] = np.take(sizes >= least * sizes.max(), labels)
    return kept


def fill_holes(mask: BoolArray) -> None:
    """Fill the holes in each slice of a mask (slices, rows, columns), in place."""
    import cc3d

    occupied = mask[bounding_box(mask)]
    for chunk in chunks(len(occupied)):
        check_time()
        # The slices one below another make a single image, whose borders connect all background
        # that is no hole. Its label is that of the first pixel.
        planes = occupied[chunk]
        count, rows, columns = planes.shape
        background = np.ones((count, rows + 2, columns + 2), np.bool_)
        np.logical_not(planes, out=background[:, 1:-1, 1:-1])
        labels = cc3d.connected_components(background.reshape(-1, columns + 2), connectivity=4)
        labels = labels.reshape(background.shape)
        np.not_equal(labels[:, 1:-1, 1:-1], labels[0, 0, 0], out=planes)


def _both_ways(bits: int, shift: int) -> int:
    return bits << shift | bits >> shift if shift else bits


def _to_bits(mask: BoolArray) -> int:
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")


def _from_bits(bits: int, shape: tuple[int, ...]) -> BoolArray:
    """The mask of a shape; further bits are left out."""
    size = math.prod(shape)
    content = (bits & ((1 << size) - 1)).to_bytes((size + 7) // 8, "little")
    unpacked = np.unpackbits(np.frombuffer(content, np.uint8), count=size, bitorder="little")
    return unpacked.view(np.bool_).reshape(shape)
