"""Voxels of a volume: those of a mask, their number along axes, or a sample from all over."""

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.pipeline.chunks import chunks

T = TypeVar("T", bound=np.generic)


def voxels_in(data: NDArray[T], mask: BoolArray) -> NDArray[T]:
    """The voxels (N,) of an array (X, Y, Z) where a mask is True, in no order that matters."""
    # In the order of memory, they are selected several times as fast.
    order = _memory_order(mask)
    return data.transpose(order)[mask.transpose(order)]


def nonzero_in(data: NDArray[T], mask: BoolArray) -> NDArray[T]:
    """Those of the voxels in a mask that are not zero, without a copy of the others."""
    order = _memory_order(data)
    along, inside = data.transpose(order), mask.transpose(order)
    values = np.empty(np.count_nonzero(mask), data.dtype)
    count = 0
    for chunk in chunks(len(along)):
        planes = along[chunk]
        found = planes[inside[chunk] & (planes != data.dtype.type(0))]
        values[count : count + len(found)] = found
        count += len(found)
    return values[:count]


def counts(mask: BoolArray, axis: int | tuple[int, ...]) -> NDArray[np.int64]:
    """The number of True along axes of a mask, which count from 0.

    Many times as fast as `numpy.count_nonzero`.
    """
    summed = (axis,) if isinstance(axis, int) else axis
    forwards, order, steps = in_memory_order(mask)
    number = forwards.view(np.uint8).sum(axis=tuple(map(order.index, summed)), dtype=np.uint32)
    kept = [each for each in order if each not in summed]
    number = number.transpose(np.argsort(kept))[tuple(steps[each] for each in sorted(kept))]
    found: NDArray[np.int64] = number.astype(np.int64)
    return found


def sample(data: NDArray[T], count: int) -> NDArray[T]:
    """About so many voxels, from all over an array (X, Y, Z), or all if there are fewer.

    Arrays of one shape whose axes are in the same order in memory are sampled at the same
    voxels.
    """
    step = max(1, data.size // count)
    # A step that shares a factor with an axis would keep to some of its places.
    while any(math.gcd(step, extent) > 1 for extent in data.shape):
        step += 1
    along = data.transpose(_memory_order(data))
    # An iterator takes 1 ms, but no copy, for flipped arrays.
    voxels: NDArray[T] = (along.ravel() if along.flags.c_contiguous else along.flat)[::step]
    return voxels


def in_memory_order(data: NDArray[T]) -> tuple[NDArray[T], list[int], tuple[slice, ...]]:
    """View an array with its axes in the order of memory, none of them backwards.

    Returns
    -------
    view
        The last axis has the smallest step.
    order
        Which axis of the array each axis of the view is.
    steps
        For each axis of the array, the slice that makes it run as in the view.
    """
    steps = tuple(slice(None, None, -1 if step < 0 else 1) for step in data.strides)
    order = _memory_order(data)
    return data[steps].transpose(order), order, steps


def _memory_order(data: NDArray[np.generic]) -> list[int]:
    """Axes from the one with the largest step in memory to that with the smallest."""
    return sorted(range(data.ndim), key=lambda axis: -abs(data.strides[axis]))
