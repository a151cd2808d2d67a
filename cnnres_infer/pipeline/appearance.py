"""How a brain looks, in a few numbers, and which kinds of image they rule out.

The numbers are relative to the brain's own intensities, so that no unit or scale
matters. Each hemisphere is measured by itself, and the one that is less suspect
counts: an infarct of a whole hemisphere changes none of the verdicts. docs/images.md
reports how well they tell DWI and FLAIR from everything else.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.banded import Banded
from cnnres_infer.pipeline.box import bounding_box
from cnnres_infer.pipeline.chunks import chunks
from cnnres_infer.pipeline.voxels import counts

# Voxels are averaged to about this size, which suppresses noise and keeps cortex and sulci.
_STEP_MM = 3.2
_OCCUPIED = 0.75

# Depths below the surface of the brain, within a slice, in mm.
_DEEP_MM, _SURFACE_MM, _DEEPEST_MM = 15.0, 9.0, 45.0
# Slices at either end are left out: eyes and sinuses below, and mostly fluid above.
_LOWEST, _HIGHEST, _MIN_SLICES = 0.10, 0.95, 6
_MIN_VOXELS = 20

# What counts as tissue, relative to the level of tissue within this radius.
_LOCAL_MM = 15.0
_TISSUE = (0.75, 1.5)
_TISSUE_FLOOR = 0.6
_OUTERMOST_MM = 3.0

# Bounds of what DWI and FLAIR look like.
_MAX_BRIGHTEST, _MAX_TAIL, _MAX_SURFACE = 1.42, 1.1, 1.2
_MAX_TAIL_DIFFUSION = 0.83
_MAX_UPPER = 1.22
_MAX_DEEPENING, _MIN_SKEWNESS, _LEAST_SKEWNESS = 0.021, 0.1, -0.68
_MIN_RANGE = 1.04


@dataclass(frozen=True)
class Appearance:
    """How a brain looks; intensities are relative to the median of deep tissue.

    Attributes
    ----------
    upper, high, brightest
        Quantiles 0.75, 0.9 and 0.95 of deep tissue.
    tail
        Distance of the quantile 0.95 from the median over that of 0.05: above 1
        if what differs from tissue, which is mostly fluid, is brighter.
    surface
        Quantile 0.9 of the surface of the brain, with cortex and sulci.
    deepening
        How much brighter tissue gets on 10 mm towards the inside, relative to
        tissue nearby: positive if white matter is brighter than grey matter.
    skewness
        Of tissue relative to tissue nearby: positive if the lesser part of it,
        which is grey matter, is the brighter one. NaN, like `deepening`, where
        there are too few slices.
    """

    upper: float
    high: float
    brightest: float
    tail: float
    surface: float
    deepening: float
    skewness: float

    @classmethod
    def of(cls, volume: Volume, brain: BoolArray) -> "Appearance | None":
        """Measure a volume.

        Parameters
        ----------
        volume
            The volume.
        brain
            bool (X, Y, Z), True in the brain.

        Returns
        -------
        Appearance
            None if the brain is too small or too coarse.
        """
        image, inside, spacing = _coarse(volume, brain)
        depth = _depth(inside, spacing[1:])
        central = _central(inside)
        halves = [
            _quantiles(image, inside & central & half, depth) for half in _hemispheres(inside)
        ]
        measured = np.array([half for half in halves if half is not None])
        if not len(measured):
            return None
        deepening, skewness = np.nan, np.nan
        if len(image) >= _MIN_SLICES:
            deepening, skewness = _grey_and_white(image, inside, central, depth, spacing)
        upper, high, brightest, tail, surface = (float(least) for least in measured.min(axis=0))
        return cls(upper, high, brightest, tail, surface, deepening, skewness)

    @property
    def has_bright_fluid(self) -> bool:
        """Whether fluid is brighter than tissue, within the brain and around it."""
        return (
            self.brightest > _MAX_BRIGHTEST
            and self.tail > _MAX_TAIL
            and self.surface > _MAX_SURFACE
        )

    @property
    def objection(self) -> str | None:
        """Why this is no DWI of b = 700 to 1500 s/mm² and no FLAIR; None if it may be one."""
        if self.has_bright_fluid:
            return (
                "looks like b0, T2 or a diffusivity map: fluid is brighter than tissue (on both "
                f"sides, a twentieth of the deep brain is over {self.brightest:.1f} times its "
                "median)"
            )
        if self.upper > _MAX_UPPER:
            return (
                "looks like FA, a parametric map or a DWI of b over 1500 s/mm²: tissue differs "
                f"too much (on both sides, a quarter of the deep brain is over {self.upper:.2f} "
                "times its median)"
            )
        has_bright_white_matter = (
            self.deepening > _MAX_DEEPENING and self.skewness < _MIN_SKEWNESS
        ) or self.skewness < _LEAST_SKEWNESS
        if has_bright_white_matter:
            return (
                "looks like T1, FA or a DWI of b over 1500 s/mm²: white matter is brighter than "
                "grey matter"
            )
        if (
            self.brightest > _MAX_BRIGHTEST
            and self.tail > _MAX_TAIL_DIFFUSION
            and self.surface > _MAX_SURFACE
        ):
            return (
                "looks like a DWI of b over 1500 s/mm²: much of the deep brain is bright on both "
                "sides"
            )
        if self.high < _MIN_RANGE:
            return (
                "looks like a phantom, CT or a smoothed mask: the inside of the brain has hardly "
                "any contrast"
            )
        return None


def slice_shape(volume: Volume, brain: BoolArray) -> tuple[float, float, float]:
    """Width and length of the brain's largest slice in mm, and how much of their product it fills.

    Parameters
    ----------
    volume
        The volume.
    brain
        bool (X, Y, Z), True in the brain.
    """
    planes = volume.grid.orientation.planes(brain)
    largest = planes[int(np.argmax(counts(planes, (1, 2))))]
    rows, columns = np.flatnonzero(largest.any(axis=1)), np.flatnonzero(largest.any(axis=0))
    height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    row_axis, column_axis, _ = volume.grid.orientation.axes
    spacing = volume.grid.spacing
    fill = np.count_nonzero(largest) / (height * width)
    return width * spacing[column_axis], height * spacing[row_axis], fill


def _coarse(volume: Volume, brain: BoolArray) -> tuple[FloatArray, BoolArray, NDArray[np.float64]]:
    """Mean intensities of the brain (slices, rows, columns), where they are, and their spacing."""
    orientation = volume.grid.orientation
    box = bounding_box(brain)
    inside = orientation.planes(brain[box])
    rows, columns, slices = orientation.axes
    spacing = np.array(volume.grid.spacing)[[slices, rows, columns]]
    steps = [max(1, round(_STEP_MM / mm)) for mm in spacing.tolist()]
    planes = orientation.planes(volume.data[box])
    parts = chunks(len(planes), multiple=steps[0])
    weight = np.concatenate([_block_sums(inside[z].astype(np.float32), steps) for z in parts])
    total = np.concatenate([_block_sums(planes[z] * inside[z], steps) for z in parts])
    image = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    occupied: BoolArray = weight >= _OCCUPIED * np.prod(steps)
    return image, occupied, spacing * steps


def _block_sums(data: FloatArray, steps: list[int]) -> FloatArray:
    """Sums over blocks of voxels; those at the ends may be smaller."""
    for axis, step in enumerate(steps):
        along = np.moveaxis(data, axis, 0)
        sums = along[::step].copy(order="K")
        for offset in range(1, step):
            rest = along[offset::step]
            sums[: len(rest)] += rest
        data = np.moveaxis(sums, 0, axis)
    return data


def _depth(inside: BoolArray, spacing: NDArray[np.float64]) -> FloatArray:
    """Distance from the edge of the brain within each slice, in mm, up to a largest one."""
    step = float(spacing.mean())
    # With the slices last, which the steps inwards leave alone, memory is walked through in turn.
    padded = np.pad(inside.transpose(1, 2, 0), ((1, 1), (1, 1), (0, 0))).copy("C")
    core = padded[1:-1, 1:-1]
    depth = np.zeros(core.shape, np.uint8)
    for _ in range(int(_DEEPEST_MM / step)):
        depth += core
        along_rows = padded[2:, 1:-1] & padded[:-2, 1:-1]
        along_columns = padded[1:-1, 2:] & padded[1:-1, :-2]
        core &= along_rows
        core &= along_columns
    return np.ascontiguousarray(depth.transpose(2, 0, 1)) * np.float32(step)


def _central(inside: BoolArray) -> BoolArray:
    """True (slices, 1, 1) in all slices but those at either end of the brain."""
    areas = counts(inside, (1, 2))
    below = np.cumsum(areas) / max(1, int(areas.sum()))
    central = (below > _LOWEST) & (below < _HIGHEST)
    if len(areas) < _MIN_SLICES:
        central[:] = True
    return central[:, None, None]


def _hemispheres(inside: BoolArray) -> list[BoolArray]:
    """The columns (1, 1, N) on either side of the middle of the brain."""
    below = np.cumsum(np.count_nonzero(inside, axis=(0, 1)))
    left = (below < below[-1] / 2)[None, None, :]
    return [left, ~left]


def _quantiles(
    image: FloatArray, region: BoolArray, depth: FloatArray
) -> tuple[float, float, float, float, float] | None:
    """The first five of the attributes in one hemisphere; None if it is too small."""
    deep, surface = image[region & (depth > _DEEP_MM)], image[region & (depth <= _SURFACE_MM)]
    if min(deep.size, surface.size) < _MIN_VOXELS:
        return None
    p5, median, p75, p90, p95 = np.percentile(deep, (5, 50, 75, 90, 95)).tolist()
    if not median > 0:
        return None
    tail = (p95 - median) / max(median - p5, 1e-3 * median)
    return (
        p75 / median,
        p90 / median,
        p95 / median,
        tail,
        float(np.percentile(surface, 90)) / median,
    )


def _grey_and_white(
    image: FloatArray,
    inside: BoolArray,
    central: BoolArray,
    depth: FloatArray,
    spacing: NDArray[np.float64],
) -> tuple[float, float]:
    """The last two of the attributes."""
    windows = [
        _window(n, _LOCAL_MM / mm) for n, mm in zip(image.shape[1:], spacing[1:], strict=True)
    ]
    tissue = inside & (image > _TISSUE_FLOOR * np.median(image[inside]))
    for _ in range(2):
        count = np.maximum(_local_sum(tissue.astype(np.float32), windows), np.float32(1))
        level = _local_sum(image * tissue, windows) / count
        tissue = inside & (image > _TISSUE[0] * level) & (image < _TISSUE[1] * level)
    count = np.maximum(_local_sum(tissue.astype(np.float32), windows), np.float32(1))
    deeper = depth - _local_sum(depth * tissue, windows) / count
    # The outermost voxels are partly fluid.
    kept = tissue & central & (depth > _OUTERMOST_MM)
    if np.count_nonzero(kept) < _MIN_VOXELS:
        return np.nan, np.nan
    contrast, deeper = image[kept] / level[kept] - 1, deeper[kept]
    slope = float(contrast @ deeper / max(float(deeper @ deeper), 1e-9))
    deviation = contrast - contrast.mean()
    skewness = float(np.mean(deviation**3)) / max(float(contrast.std()), 1e-6) ** 3
    return 10 * slope, skewness


def _window(extent: int, reach: float) -> Banded:
    """Matrix (extent, extent) that sums up what is within `reach` voxels."""
    width = int(reach)
    return Banded.of(extent, np.arange(extent) - width, np.ones((extent, 2 * width + 1)))


def _local_sum(planes: FloatArray, windows: list[Banded]) -> FloatArray:
    rows, columns = windows
    return columns.along_columns(rows.along_rows(planes))
