"""Image intensities and lesion probabilities on a grid."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode, Notice, WarningCode
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.text import counted
from cnnres_infer.errors import GeometryError, VolumeError

# Outside this range, sums and ratios of voxels may overflow or underflow float32.
_MIN_MAGNITUDE, _MAX_MAGNITUDE = 1e-30, 1e30


@dataclass(frozen=True, eq=False)
class Volume:
    """Image intensities on a grid.

    Attributes
    ----------
    data
        float32 (X, Y, Z), finite. A read-only view: the array passed in is not
        copied, so it must not be modified afterwards. `from_array` copies.
    grid
        The grid of the voxels.
    name
        Name used in messages and for output files.
    warnings
        What was unusual about the input, and how it was handled.
    source
        What the reader's own writer needs to reproduce the header; opaque to
        everything else.

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
                f"{self.name}: the data have shape {self.data.shape}, the grid {self.grid.shape}"
            )
        if self.data.dtype != np.float32 or not np.isfinite(self.data).all():
            raise VolumeError(
                f"{self.name}: the data must be float32 and finite; use Volume.from_array"
            )
        object.__setattr__(self, "data", read_only(self.data))

    def __repr__(self) -> str:
        notices = f", {counted(len(self.warnings), 'warning')}" if self.warnings else ""
        return f"<Volume {self.name!r}, {self.grid}{notices}>"

    @classmethod
    def from_array(
        cls,
        data: NDArray[Any],
        grid: Grid | NDArray[Any],
        name: str = "volume",
        warnings: tuple[Notice, ...] = (),
        *,
        is_mask: bool = False,
        source: object = None,
    ) -> Self:
        """Create a volume from a copy of an array.

        Parameters
        ----------
        data
            (X, Y, Z), of any real type.
        grid
            The grid, or an affine (4, 4) from voxel indices to mm in RAS+.
        name
            Name used in messages and for output files.
        warnings
            What was unusual about the input.
        is_mask
            Whether all voxels may be the same, as in a mask without lesions, or of a
            brain that fills the volume.
        source
            See `Volume`.

        Raises
        ------
        VolumeError
            If the array is not 3-D or not of real numbers, or if all its finite
            values are equal (unless all are finite and `is_mask` is set).
        GeometryError
            If the affine is none, singular or implausible.
        """
        if data.ndim != 3:
            raise VolumeError(f"{name}: the array has {data.ndim} dimensions; give one (X, Y, Z)")
        if data.dtype.kind not in "biuf":
            raise VolumeError(f"{name}: voxels of type {data.dtype}; give real numbers")
        if not isinstance(grid, Grid):
            shape = (int(data.shape[0]), int(data.shape[1]), int(data.shape[2]))
            try:
                grid = Grid(shape, grid)
            except GeometryError as error:
                raise GeometryError(f"{name}: {error}", code=error.code) from error
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.array(data, np.float32, order="K")
        overflowed = data.dtype.itemsize > 4 and overflows(data, values)
        return cls.from_voxels(
            values,
            grid,
            name,
            warnings,
            overflowed=overflowed,
            is_mask=is_mask,
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
        is_mask: bool,
        source: object = None,
    ) -> Self:
        """Create a volume from a float32 array that nothing else refers to, without copying.

        Parameters
        ----------
        values
            (X, Y, Z); values that are not finite are set to zero, in place.
        grid, name, warnings, is_mask, source
            See `from_array`.
        overflowed
            Whether a finite value was too large for float32.

        Raises
        ------
        VolumeError
            If the values cannot be image intensities.
        """
        # NaN and infinity show up in the extremes, so most volumes need no array of flags.
        lowest, highest = _value_range(values)
        has_invalid = not (math.isfinite(lowest) and math.isfinite(highest))
        if has_invalid:
            invalid = ~np.isfinite(values)
            values[invalid] = 0.0
            text = f"{np.count_nonzero(invalid)} voxels are not finite and were set to zero"
            warnings += (Notice(WarningCode.VOXELS_LOST, text),)
            lowest, highest = _value_range(values)
        largest = max(highest, -lowest)
        if overflowed or largest > _MAX_MAGNITUDE or 0 < largest < _MIN_MAGNITUDE:
            raise VolumeError(
                f"{name}: values are too large or too small for intensities (up to "
                f"{largest:.2g}); correct the scale factor",
                code=ErrorCode.VOXELS_RANGE,
            )
        may_be_uniform = is_mask and not has_invalid
        if values.size == 0 or (lowest == highest and not may_be_uniform):
            raise VolumeError(
                f"{name}: all voxels are the same or not finite; check that this is the right "
                "volume",
                code=ErrorCode.VOXELS_EMPTY,
            )
        return cls(values, grid, name, warnings, source)


@dataclass(frozen=True, eq=False)
class Probabilities:
    """The network's probability of lesion for each voxel.

    Attributes
    ----------
    data
        float32 (X, Y, Z) in [0, 1]. A read-only view; the array passed in is
        not copied.
    grid
        The grid of the voxels.
    """

    data: FloatArray
    grid: Grid

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", read_only(self.data))

    def __repr__(self) -> str:
        return f"<Probabilities, {self.grid}>"

    def above(self, rule: Callable[[FloatArray], BoolArray]) -> BoolArray:
        """Apply a rule such as a threshold, bool (X, Y, Z)."""
        return rule(self.data)


def read_only(data: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view of an array, which itself remains writable."""
    view = data.view()
    view.setflags(write=False)
    return view


def overflows(exact: NDArray[Any], values: FloatArray) -> bool:
    """Whether the conversion to float32 made any finite value infinite.

    Parameters
    ----------
    exact
        The original values.
    values
        The same values as float32.
    """
    if exact.dtype.kind != "f":
        # No integer is as large.
        return False
    invalid = ~np.isfinite(values)
    return bool(invalid.any() and np.isfinite(exact[invalid]).any())


def _value_range(values: FloatArray) -> tuple[float, float]:
    """Minimum and maximum of an array, zero if it is empty."""
    if values.size == 0:
        return 0.0, 0.0
    with np.errstate(invalid="ignore"):
        return float(values.min()), float(values.max())
