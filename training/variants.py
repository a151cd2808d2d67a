"""Volumes as other scanners and other brain masks would give them, before anything is corrected.

What shading correction and normalisation leave of these changes is what the
network has to bear, so they are made on whole volumes, ahead of the pipeline.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.resample import resampling_matrix
from cnnres_infer.pipeline.slices.normalisation import tissue_median

_WAVES = 4
_LONGEST_MM, _SHORTEST_MM = 400.0, 90.0
_STRONGEST = np.log(2.0)

_WIDEST_EDGE_MM = 4.0
_THIN_MM = 4.0

_SATURATED = 0.985
_TEXTURE_NODES = 32
_HEIGHT = 1.6


@dataclass(frozen=True, eq=False)
class Labelled:
    """A volume with its lesions and its brain, all (X, Y, Z)."""

    volume: Volume
    truth: FloatArray
    brain: BoolArray


def varied(case: Labelled, rng: Generator) -> Labelled:
    """Another coil, another brain mask, and now and then thicker slices."""
    case = thickened(case, rng) if rng.random() < 0.3 else case
    if rng.random() < 0.8:
        gain = random_gain(case.volume, rng.uniform(0, _STRONGEST), rng)
        case = replace(case, volume=_with_data(case.volume, case.volume.data * gain))
    return with_another_edge(case, rng) if rng.random() < 0.5 else case


def random_gain(volume: Volume, strength: float, rng: Generator) -> FloatArray:
    """A smooth gain (X, Y, Z) from ``exp(-strength)`` to ``exp(strength)``, as a coil's.

    A few long waves in random directions.
    """
    x, y, z = (
        np.arange(n, dtype=np.float32) * np.float32(mm)
        for n, mm in zip(volume.grid.shape, volume.grid.spacing, strict=True)
    )
    log = np.zeros(volume.grid.shape, np.float32)
    for _ in range(_WAVES):
        wavelength = np.exp(rng.uniform(np.log(_SHORTEST_MM), np.log(_LONGEST_MM)))
        direction = rng.normal(size=3)
        k = (2 * np.pi / wavelength * direction / np.linalg.norm(direction)).astype(np.float32)
        phase = (k[0] * x)[:, None, None] + (k[1] * y)[:, None] + k[2] * z
        # Longer waves are stronger: coils make few short ones.
        log += np.cos(phase + np.float32(rng.uniform(0, 2 * np.pi))) * np.float32(
            rng.uniform(0.2, 1.0) * wavelength / _LONGEST_MM
        )
    log -= (log.max() + log.min()) / 2
    gain: FloatArray = np.exp(log * np.float32(strength / max(float(log.max()), 1e-6)))
    return gain


def with_another_edge(case: Labelled, rng: Generator) -> Labelled:
    """A brain mask that is up to 4 mm too small or too large within slices."""
    rows, columns, _ = case.volume.grid.orientation.axes
    spacing = min(case.volume.grid.spacing[rows], case.volume.grid.spacing[columns])
    voxels = int(rng.integers(1, max(1, round(_WIDEST_EDGE_MM / spacing)) + 1))
    grow = bool(rng.random() < 0.5)
    mask = case.brain if grow else ~case.brain
    for _ in range(voxels):
        mask = _dilated(mask, (rows, columns))
    return replace(case, brain=mask if grow else ~mask)


def thickened(case: Labelled, rng: Generator) -> Labelled:
    """Two or three neighbouring slices averaged, where slices are thin."""
    _, _, axis = case.volume.grid.orientation.axes
    if case.volume.grid.spacing[axis] > _THIN_MM or case.volume.grid.shape[axis] < 4:
        return case
    width = int(rng.integers(2, 4))
    image, truth = (
        np.mean([np.roll(x, i - width // 2, axis) for i in range(width)], axis=0)
        for x in (case.volume.data, case.truth)
    )
    return Labelled(_with_data(case.volume, image), (truth >= 0.5).astype(np.float32), case.brain)


def at_b(volume: Volume, b0: FloatArray, share: float) -> Volume:
    """A DWI as another b-value would give it, `share` times its own.

    Monoexponential: ``b0 * (dwi / b0) ** share``, whatever the b-values are.

    Parameters
    ----------
    b0
        (X, Y, Z), the image without diffusion weighting on the same grid.
    """
    dwi = np.maximum(volume.data, 0)
    known = (dwi > 0) & (b0 > 0)
    image = np.where(known, 0, dwi).astype(np.float32)
    log = (1 - share) * np.log(b0[known]) + share * np.log(dwi[known])
    image[known] = np.exp(log)
    return _with_data(volume, image)


def unsaturated(volume: Volume, rng: Generator) -> Volume:
    """Give texture and height to what the range of an 8-bit slice (X, Y, 1) cut off."""
    data = volume.data[:, :, 0]
    ceiling = data >= _SATURATED * data.max()
    height = rng.uniform(0, _HEIGHT) * (rng.random() < 0.6) * tissue_median(volume, volume.data > 0)
    nodes = rng.normal(size=(_TEXTURE_NODES, _TEXTURE_NODES)).astype(np.float32)
    up, across = (
        resampling_matrix(_TEXTURE_NODES, n, 0.0, (_TEXTURE_NODES - 1) / max(1, n - 1))
        for n in data.shape
    )
    texture = (0.5 + 0.35 * (up @ nodes @ across.T)).clip(0, 1.5)
    image = data + np.float32(height) * texture * ceiling
    return _with_data(volume, image[:, :, None])


def _dilated(mask: BoolArray, axes: tuple[int, int]) -> BoolArray:
    grown = mask.copy()
    for axis in axes:
        for step in (-1, 1):
            moved = np.roll(mask, step, axis)
            # What leaves at one side must not come in at the other.
            moved[(slice(None),) * axis + (0 if step > 0 else -1,)] = False
            grown |= moved
    return grown


def _with_data(volume: Volume, data: NDArray[np.floating]) -> Volume:
    return Volume(np.asarray(data, np.float32), volume.grid, volume.name)
