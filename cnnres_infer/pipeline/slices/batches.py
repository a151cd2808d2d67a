"""From a volume to batches of the images that the network sees."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.spec import SliceSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.shading import corrected
from cnnres_infer.pipeline.slices.geometry import SliceGeometry
from cnnres_infer.pipeline.slices.normalisation import saturation


@dataclass(frozen=True, eq=False)
class SliceBatch:
    """Some images of one volume.

    Attributes
    ----------
    images
        float32 (N, C, H, W) in [0, 1]; rows run from anterior to posterior,
        columns from the patient's right to left.
    z
        (N,) index of each image along the grid's slice axis.
    """

    images: FloatArray
    z: NDArray[np.intp]


def to_batches(
    channels: tuple[Volume, ...],
    brain: BoolArray,
    geometry: SliceGeometry,
    spec: SliceSpec,
    batch_size: int,
) -> Iterator[SliceBatch]:
    """Cut volumes on one grid into normalised batches of the slices with brain.

    Parameters
    ----------
    channels
        The network's input channels, all on one grid.
    brain
        bool (X, Y, Z); voxels outside become 0, slices without any are left out.
    geometry
        The mapping of that grid.
    spec
        What the network expects.
    batch_size
        Most slices in a batch.
    """
    channels = tuple(corrected(volume, brain, spec) for volume in channels)
    occupied = np.flatnonzero(geometry.orientation.view(brain).any(axis=(0, 1)))
    scales = [1.0 / saturation(volume, brain, spec) for volume in channels]
    for first in range(0, len(occupied), batch_size):
        z = occupied[first : first + batch_size]
        images = np.empty((len(z), len(channels), spec.size, spec.size), np.float32)
        outside = ~geometry.planes(brain)[z]
        for channel, (volume, scale) in enumerate(zip(channels, scales, strict=True)):
            planes = geometry.planes(volume.data)[z]
            # What overflows is brighter than the ceiling, and cut off there.
            with np.errstate(over="ignore"):
                planes *= np.float32(scale)
            np.clip(planes, 0.0, 1.0, out=planes)
            planes[outside] = 0.0
            images[:, channel] = geometry.to_pixels(planes)
        yield SliceBatch(images, z)


def all_slices(
    channels: tuple[Volume, ...], brain: BoolArray, spec: SliceSpec
) -> tuple[SliceGeometry, SliceBatch]:
    """Cut all slices with brain in one batch; see `to_batches`."""
    grid = channels[0].grid
    geometry = SliceGeometry.of(grid, brain, spec)
    (batch,) = to_batches(channels, brain, geometry, spec, max(grid.shape))
    return geometry, batch
