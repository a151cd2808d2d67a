"""What the benchmarks share: synthetic brains, and a description of the machine."""

import platform
from pathlib import Path

import numpy as np

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.case import Case
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.host.machine import processor, usable_cores
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.readers.nifti.write import save_volume
from export.slices import slices_of

SHAPE = (112, 112, 73)
SLICES = 60


def machine() -> str:
    """Architecture, usable cores and processor of this machine."""
    return f"{platform.machine()}, {usable_cores()} cores, {processor()}"


def phantom_slices(bundle: Bundle) -> FloatArray:
    """Slices (60, 1, H, W) of a synthetic brain."""
    modality = bundle.spec.modalities[0]
    phantom = make_phantom(shape=SHAPE, modality=modality)
    volume = Volume.from_array(phantom.data, phantom.affine)
    _, batch = slices_of(Case(modality, volume), bundle.spec)
    return np.ascontiguousarray(batch.images[:SLICES])


def save_phantom(
    path: Path,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
    *,
    modality: str = "dwi",
    skull: bool = False,
) -> None:
    """Write a synthetic brain, or a whole head with its `skull`, as scanners' 16-bit integers."""
    phantom = make_phantom(shape=shape, spacing=spacing, modality=modality, skull=skull)
    voxels = np.asfortranarray(np.rint(phantom.data), np.int16)
    save_volume(path, voxels, Grid(shape, phantom.affine), overwrite=True)
