"""Intensities and probabilities on their grids."""

import math
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode, Notice, WarningCode
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.errors import VolumeError

# Beyond these, sums and ratios of voxels leave what 32 bits hold.
_SMALLEST, _LARGEST = 1e-30, 1e30


@dataclass(frozen=True, eq=False)
class Volume:
    """Intensities on a grid.

    Attributes
    ----------
    data
        float32 (X, Y, Z), finite: a read-only view of the array that was given,
        which is not copied, so it must not change afterwards; `from_array`
        copies.
    grid
        Where they lie.
    name
        What to call the volume in messages and output names.
    warnings
        What was odd about the input and how it was read.
    source
        What its reader needs in order to write the same header again; opaque
        to everything but that reader's own writer.

    Raises
    ------
    VolumeError
        If the data are not finite float32 of the grid's shape.
    """

    data: FloatArray
    grid: Grid
    name: str = "volume"
    warnings: tuple[Notice, ...] = ()
    source: object = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.data.shape != self.grid.shape:
            raise VolumeError(
                f"{self.name}: the data have the shape {self.data.shape}, not {self.grid.shape}"
            )
        if self.data.dtype != np.float32 or not np.isfinite(self.data).all():
            raise VolumeError(f"{self.name}: the data are not float32 and finite throughout")
        object.__setattr__(self, "data", read_only(self.data))

    @classmethod
    def from_array(
        cls,
        data: NDArray[Any],
        grid: Grid | NDArray[Any],
        name: str = "volume",
        warnings: tuple[Notice, ...] = (),
        *,
        may_be_zero: bool = False,
        source: object = None,
    ) -> Self:
        """Copy an array (X, Y, Z) with its grid, or with its RAS+ affine in mm (4, 4).

        Parameters
        ----------
        may_be_zero
            Whether all voxels may be zero, as in the mask of a scan without lesion.

        Raises
        ------
        VolumeError
            If the array is not 3-D, or holds no two different finite numbers
            (unless all are zero and may be).
        GeometryError
            If the affine is singular or not finite.
        """
        if data.ndim != 3:
            raise VolumeError(f"{name}: an array of {data.ndim} dimensions; give one (X, Y, Z)")
        if data.dtype.kind not in "biuf":
            raise VolumeError(
                f"{name}: voxels of type {data.dtype}; one real number each is needed"
            )
        if not isinstance(grid, Grid):
            shape = (int(data.shape[0]), int(data.shape[1]), int(data.shape[2]))
            grid = Grid(shape, np.asarray(grid, np.float64))
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.array(data, np.float32, order="K")
        overflowed = data.dtype.itemsize > 4 and overflows(data, values)
        return cls.from_voxels(
            values,
            grid,
            name,
            warnings,
            overflowed=overflowed,
            may_be_zero=may_be_zero,
            source=source,
        )

    @classmethod
    def from_voxels(
        cls,
        values: FloatArray,
        grid: Grid,
        name: str,
        warnings: tuple[Notice, ...],
        *,
        overflowed: bool,
        may_be_zero: bool,
        source: object = None,
    ) -> Self:
        """Take over float32 voxels that nobody else holds, if they can be an image.

        Parameters
        ----------
        values
            (X, Y, Z); those that are not finite become zero, in place.
        overflowed
            Whether a finite number was too large for float32.

        Raises
        ------
        VolumeError
            If there is no image in them.
        """
        # One voxel that is not finite makes an extreme that is not; so no mask of them is needed.
        least, most = _extremes(values)
        lost = not (math.isfinite(least) and math.isfinite(most))
        if lost:
            invalid = ~np.isfinite(values)
            values[invalid] = 0.0
            text = f"{np.count_nonzero(invalid)} voxels are not finite and were taken as zero"
            warnings += (Notice(WarningCode.VOXELS_LOST, text),)
            least, most = _extremes(values)
        largest = max(most, -least)
        if overflowed or largest > _LARGEST or 0 < largest < _SMALLEST:
            raise VolumeError(
                f"{name}: values up to {largest:.2g}, which are no intensities; correct the scale "
                "factor",
                code=ErrorCode.VOXELS_RANGE,
            )
        all_zero = may_be_zero and largest == 0 and not lost
        if values.size == 0 or (least == most and not all_zero):
            raise VolumeError(
                f"{name}: all voxels are the same or not finite; there is no image in it",
                code=ErrorCode.VOXELS_EMPTY,
            )
        return cls(values, grid, name, warnings, source)


@dataclass(frozen=True, eq=False)
class Probabilities:
    """The network's opinion on each voxel.

    Attributes
    ----------
    data
        float32 (X, Y, Z) in [0, 1]: probability of lesion; a read-only view of
        the array that was given, which is not copied.
    grid
        Where they lie.
    """

    data: FloatArray
    grid: Grid

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", read_only(self.data))


def read_only(data: NDArray[Any]) -> NDArray[Any]:
    """View an array read-only; whoever holds the array itself may still write to it."""
    view = data.view()
    view.setflags(write=False)
    return view


def overflows(exact: NDArray[Any], values: FloatArray) -> bool:
    """Tell whether numbers that were finite no longer are as float32."""
    lost = ~np.isfinite(values)
    return bool(lost.any() and np.isfinite(exact[lost]).any())


def _extremes(values: FloatArray) -> tuple[float, float]:
    """The least and the most of some values, zero where there are none."""
    if values.size == 0:
        return 0.0, 0.0
    with np.errstate(invalid="ignore"):
        return float(values.min()), float(values.max())
