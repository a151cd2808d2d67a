"""Coil shading: the smooth field that makes one side of a head brighter, estimated and removed."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.banded import Banded
from cnnres_infer.pipeline.box import bounding_box
from cnnres_infer.pipeline.chunks import chunks
from cnnres_infer.pipeline.resample import resampling
from cnnres_infer.pipeline.trend import fitted_trend

# Lengths in mm: what the field is smoothed by (a narrower Gaussian takes infarcts for shading),
# and the voxels it is estimated on.
_SIGMA = 15.0
_WORKING_STEP = 6.0
# Beyond as many sigma, weights vanish in float32.
_REACH = 8.0

# Of what the trend leaves, tissue that has no say: fluid and partial volume; lesions and pile-up
# at air, and what is brighter by this factor's logarithm than plain tissue.
_DARKEST, _BRIGHTEST = 0.15, 0.10
_PLAIN, _BRIGHTER = 0.4, 0.25

# A voxel of the coarse grid counts if at least this share of it is brain.
_OCCUPIED = 0.5
# Logarithm of the strongest field: no coil's is near it, and its exponential is finite.
_STRONGEST = 20.0
# Of the Gaussian's weight: where less is brain, the field tends to its smooth trend.
_FLOOR = 1e-3


class _Axis(NamedTuple):
    """One image axis: its coarse positions in mm, and the matrices to them, along them and back."""

    positions: NDArray[np.float64]
    shrink: Banded
    smooth: Banded
    grow: Banded


@dataclass(frozen=True, eq=False)
class Shading:
    """The smooth field that lies over the brain of a volume, as slices need it.

    Attributes
    ----------
    box
        The slices, rows and columns that hold the brain; the field ends there.
    gain
        float32 (slices of the box, coarse rows, coarse columns): the inverse of
        the field, which has a geometric mean of one over the brain.
    rows, columns
        From coarse positions to the rows and columns of the box.
    """

    box: tuple[slice, slice, slice]
    gain: FloatArray
    rows: Banded
    columns: Banded

    @classmethod
    def of(cls, volume: Volume, brain: BoolArray, box: tuple[slice, slice, slice]) -> Self | None:
        """Estimate the field of a volume.

        It is a cubic trend of log intensities, and what a normalised convolution
        with a Gaussian of 15 mm finds besides, without the darkest and the
        brightest tissue. The trend is fitted to differences between neighbours
        in the brain, since those of shading are small and everywhere, those of
        lesions large and at their edges: there they count for nothing (weights
        of Geman and McClure, 1987), however large the lesion.

        Parameters
        ----------
        volume
            In any orientation, and in any unit; a single slice is a volume of one.
        brain
            bool (X, Y, Z).
        box
            The slices, rows and columns that hold the brain.

        Returns
        -------
        Shading
            None if the brain holds no positive intensities.
        """
        orientation = volume.grid.orientation
        rows, columns, slices = orientation.axes
        inside = orientation.planes(brain)
        spacing = np.take(volume.grid.spacing, (slices, rows, columns)).tolist()
        extents = [extent.stop - extent.start for extent in box]
        if not all(extents):
            return None
        axes = [_axis(n, mm) for n, mm in zip(extents, spacing, strict=True)]
        total, share = _coarse(orientation.planes(volume.data)[box], inside[box], axes)
        if not share.any():
            return None
        gain = axes[0].grow.along_first(np.exp(-_log_field(total, share, axes)))
        return cls(box, gain, axes[1].grow, axes[2].grow)

    def remove(self, planes: FloatArray, z: NDArray[np.intp]) -> None:
        """Divide slices by the field, in place.

        Parameters
        ----------
        planes
            float32 (N, rows, columns): slices of the volume, as far as they are in
            the box.
        z
            (N,), the index of each, counted from inferior; all in the box.
        """
        coarse = self.gain[z - self.box[0].start]
        planes *= self.columns.along_columns(self.rows.along_rows(coarse))


def remove_shading(volume: Volume, brain: BoolArray) -> Volume:
    """Divide a volume by the smooth field that lies over its brain; see `Shading`.

    Returns
    -------
    Volume
        On the same grid; its brain is as bright as before on geometric average.
        Voxels far from the brain are left as they are, and so is a volume whose
        brain holds no positive intensities.
    """
    shading = Shading.of(volume, brain, bounding_box(volume.grid.orientation.planes(brain)))
    if shading is None:
        return volume
    flat = volume.data.copy(order="K")
    planes = volume.grid.orientation.planes(flat)
    shading.remove(planes[shading.box], np.arange(len(planes))[shading.box[0]])
    return replace(volume, data=flat)


def _coarse(
    planes: FloatArray, brain: BoolArray, axes: list[_Axis]
) -> tuple[FloatArray, FloatArray]:
    """Sum of positive intensities of the brain, and their share, in each coarse voxel.

    In chunks of slices, since temporary arrays of the whole volume would be large.
    """
    slices, rows, columns = axes
    parts = []
    for chunk in chunks(len(planes)):
        data = np.ascontiguousarray(planes[chunk])
        inside = ((data > 0) & brain[chunk]).astype(np.float32)
        parts.append(
            [
                columns.shrink.along_columns(rows.shrink.along_rows(each))
                for each in (data * inside, inside)
            ]
        )
    total, share = (np.concatenate(each) for each in zip(*parts, strict=True))
    return slices.shrink.along_first(total), slices.shrink.along_first(share)


def _log_field(total: FloatArray, share: FloatArray, axes: list[_Axis]) -> FloatArray:
    """Logarithm of the field at the coarse positions, zero on average over the brain."""
    seen = (share > min(_OCCUPIED, 0.5 * float(share.max()))) & (total > 0)
    level = np.zeros_like(share)
    level[seen] = np.log(total[seen] / share[seen])
    trend = fitted_trend(level, seen, [axis.positions for axis in axes])
    flat = level[seen] - trend[seen]
    ranked, last = np.sort(flat), len(flat) - 1
    low, plain, high = (
        float(ranked[round(part * last)]) for part in (_DARKEST, _PLAIN, 1 - _BRIGHTEST)
    )
    kept = share[seen] * ((flat >= low) & (flat <= min(high, plain + _BRIGHTER)))
    known, rest = np.zeros_like(share), np.zeros_like(share)
    known[seen], rest[seen] = kept, kept * (flat - np.average(flat, weights=kept))
    smooth = [axis.smooth for axis in axes]
    field = trend + _along_axes(rest, smooth) / (_along_axes(known, smooth) + np.float32(_FLOOR))
    field -= field[seen].mean()
    return np.clip(field, -_STRONGEST, _STRONGEST)


# Kept, since brains in scans of one protocol differ in extent by a few voxels only.
@lru_cache(maxsize=32)
def _axis(extent: int, spacing: float) -> _Axis:
    count = max(1, round(extent * spacing / max(spacing, _WORKING_STEP)))
    step = extent / count
    positions = ((np.arange(count) - (count - 1) / 2) * step * spacing).astype(np.float64)
    positions.setflags(write=False)

    reach = min(count - 1, int(_REACH * _SIGMA / (step * spacing)))
    offsets = np.arange(-reach, reach + 1)
    gaussian = np.exp(-((offsets * step * spacing) ** 2) / (2 * _SIGMA**2))
    # Rows sum to one, so that nothing fades at the ends; for weights of a whole Gaussian, the
    # floor then means the same on every axis.
    return _Axis(
        positions,
        resampling(extent, count, (step - 1) / 2, step).averaging(),
        Banded.of(
            count, np.arange(count) - reach, np.broadcast_to(gaussian, (count, len(gaussian)))
        ).averaging(),
        resampling(count, extent, (1 / step - 1) / 2, 1 / step).averaging(),
    )


def _along_axes(data: FloatArray, matrices: list[Banded]) -> FloatArray:
    """Apply one matrix to each axis of (X, Y, Z)."""
    x, y, z = matrices
    along_x = x.along_first(data.reshape(len(data), -1)).reshape(x.shape[0], *data.shape[1:])
    return y.along_rows(z.along_columns(along_x))
