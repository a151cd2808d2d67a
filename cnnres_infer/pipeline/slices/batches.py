"""Extraction of the network's input images from a volume."""

from collections.abc import Iterator

import numpy as np

from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.core.batch import SliceBatch
from cnnres_infer.core.crops import cropped
from cnnres_infer.core.spec import SliceSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.slices.geometry import SliceGeometry
from cnnres_infer.pipeline.slices.source import SliceSource


def to_batches(
    channels: tuple[Volume, ...],
    brain: BoolArray,
    geometry: SliceGeometry,
    spec: SliceSpec,
    batch_size: int,
) -> Iterator[SliceBatch]:
    """Extract batches of normalised images of all slices that contain brain.

    Slices without brain are omitted. If images are cut to the brain, each batch has
    images of one shape, and the order of slices is lost.

    Parameters
    ----------
    channels
        The volumes of the network's input channels, all on the same grid.
    brain
        bool (X, Y, Z); voxels outside are set to zero.
    geometry
        The slice geometry of the grid, for that brain.
    spec
        Size, spacing and normalisation of the images.
    batch_size
        Maximum number of slices in a batch.

    Raises
    ------
    VolumeError
        If the brain has no positive intensities.
    """
    if spec.frame == "whole":
        return whole_slices(channels, brain, geometry, spec, batch_size)
    parts = _brain_parts(channels, brain, geometry, spec, batch_size)
    return cropped(parts, spec.sides, batch_size)


def whole_slices(
    channels: tuple[Volume, ...],
    brain: BoolArray,
    geometry: SliceGeometry,
    spec: SliceSpec,
    batch_size: int,
) -> Iterator[SliceBatch]:
    """Extract batches of images that are not cut, from inferior to superior; see `to_batches`."""
    for batch in _brain_parts(channels, brain, geometry, spec, batch_size):
        yield SliceBatch(batch.framed(batch.images), batch.z)


def _brain_parts(
    channels: tuple[Volume, ...],
    brain: BoolArray,
    geometry: SliceGeometry,
    spec: SliceSpec,
    batch_size: int,
) -> Iterator[SliceBatch]:
    """The part of each image that the brain of the volume reaches, the same in all slices."""
    box = geometry.box
    inside = geometry.planes(brain)[box]
    sources = [SliceSource.of(volume, brain, geometry, spec) for volume in channels]
    scales = [1.0 / source.saturation(inside, geometry.z, spec) for source in sources]
    for first in range(0, len(geometry.z), batch_size):
        z = geometry.z[first : first + batch_size]
        images = []
        for source, scale in zip(sources, scales, strict=True):
            planes = source.planes(z)
            # Values that overflow are above the ceiling, and clipped there.
            with np.errstate(over="ignore"):
                planes *= np.float32(scale)
            np.clip(planes, 0.0, 1.0, out=planes)
            planes *= inside[z - box[0].start]
            images.append(geometry.brain_to_pixels(planes))
        frame = (spec.size, spec.size)
        several = images[0][:, None] if len(images) == 1 else np.stack(images, axis=1)
        yield SliceBatch(several, z, (geometry.place,) * len(z), frame)


def all_slices(
    channels: tuple[Volume, ...], brain: BoolArray, spec: SliceSpec
) -> tuple[SliceGeometry, SliceBatch]:
    """Extract all slices that contain brain as a single batch of whole slices; see `to_batches`."""
    grid = channels[0].grid
    geometry = SliceGeometry.of(grid, brain, spec)
    (batch,) = whole_slices(channels, brain, geometry, spec, max(grid.shape))
    return geometry, batch
