"""The position and orientation of a volume's voxels in patient space."""

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import Affine
from cnnres_infer.errors import GeometryError

T = TypeVar("T", bound=np.generic)

# No scanner produces an image of a head with voxels outside this range.
_MIN_SPACING_MM, _MAX_SPACING_MM = 0.01, 100.0
# Larger numbers in an affine are certainly wrong, and could overflow.
MAX_AFFINE_MM = 1e7
# Closer than this, positions are the same but for what programs round.
NEGLIGIBLE_MM = 0.1
# If the determinant of the direction cosines is smaller, two axes are practically parallel.
_MIN_COSINE_DETERMINANT = 1e-3
# Of the last row: what products and inverses of affines leave there.
_ROUNDING = 1e-6
_LAST_ROW = (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Orientation:
    """How the voxel axes of a grid map to axial slices in radiological convention.

    Row 0 of a slice is anterior, column 0 is the patient's right, and slice 0
    is the most inferior one.

    Attributes
    ----------
    axes
        Voxel axes of the rows, the columns and the slices.
    flips
        Whether rows, columns and slices run against their voxel axis.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def view(self, data: NDArray[T]) -> NDArray[T]:
        """View an array (X, Y, Z) as (rows, columns, slices), without copying."""
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return data.transpose(self.axes)[steps]

    def planes(self, data: NDArray[T]) -> NDArray[T]:
        """View an array (X, Y, Z) as (slices, rows, columns), without copying."""
        return np.moveaxis(self.view(data), 2, 0)

    def slice_index(self, z: int, count: int) -> int:
        """Voxel index of the z-th slice from inferior, on a slice axis of `count` voxels."""
        return count - 1 - z if self.flips[2] else z


@dataclass(frozen=True, eq=False)
class Grid:
    """The position of a volume's voxels in patient space.

    Attributes
    ----------
    shape
        Number of voxels along each of the three axes.
    affine
        float64 (4, 4): voxel indices to mm in RAS+ (right, anterior and
        superior are positive). Copied, and read-only.

    Raises
    ------
    GeometryError
        If the affine is none (see `parse_affine`), is singular, or has an
        implausible voxel size.
    """

    shape: tuple[int, int, int]
    affine: Affine

    @np.errstate(all="ignore")
    def __post_init__(self) -> None:
        affine = parse_affine(self.affine)
        if not np.linalg.norm(affine[:3, :3], axis=0).all() or not np.linalg.det(affine[:3, :3]):
            raise GeometryError(
                "the affine is singular: the volume has no extent in some direction"
            )
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if not ((spacing >= _MIN_SPACING_MM) & (spacing <= _MAX_SPACING_MM)).all():
            size = " x ".join(f"{step:.3g}" for step in spacing)
            raise GeometryError(
                f"implausible voxel size of {size} mm; correct the header or the affine",
                code=ErrorCode.GRID_SPACING,
            )
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)

    def __str__(self) -> str:
        shape, steps = map(str, self.shape), (f"{step:.3g}" for step in self.spacing)
        return f"{' x '.join(shape)} voxels of {' x '.join(steps)} mm"

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each voxel axis, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml, by the determinant; correct for sheared grids as well."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @cached_property
    def orientation(self) -> Orientation:
        """The voxel axes that are closest to posterior, left and superior.

        Of the six ways to assign the voxel axes to these directions, the one
        with the largest sum of absolute direction cosines is used, so that
        oblique grids get three different axes as well.

        Raises
        ------
        GeometryError
            If two axes of the grid are parallel.
        """
        cosines = self.affine[:3, :3] / np.asarray(self.spacing)
        if abs(np.linalg.det(cosines)) < _MIN_COSINE_DETERMINANT:
            raise GeometryError("two axes of the volume are parallel; correct its affine")
        left, posterior, superior = max(
            permutations(range(3)),
            key=lambda p: sum(abs(cosines[world, p[world]]) for world in range(3)),
        )
        flips = (
            bool(cosines[1, posterior] > 0),
            bool(cosines[0, left] > 0),
            bool(cosines[2, superior] < 0),
        )
        return Orientation((posterior, left, superior), flips)

    def to_mm(self, index: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert voxel indices (..., 3) to RAS+ positions in mm (..., 3)."""
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def distance_mm(self, other: Self) -> float:
        """Largest distance between the same corners of two grids; infinite if shapes differ."""
        if self.shape != other.shape:
            return float("inf")
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], [1])).reshape(4, -1)
        apart = ((self.affine - other.affine) @ corners)[:3]
        return float(np.linalg.norm(apart, axis=0).max())

    def matches(self, other: Self, tolerance: float = 1e-3) -> bool:
        """Whether two grids have the same shape and affine, within `tolerance` in mm."""
        return self.shape == other.shape and bool(
            np.allclose(self.affine, other.affine, rtol=0, atol=tolerance)
        )


@np.errstate(all="ignore")
def parse_affine(value: Any) -> Affine:
    """Copy an affine, after making sure that it is one.

    Parameters
    ----------
    value
        (4, 4), voxel indices to mm; anything that NumPy can make an array of.

    Returns
    -------
    float64 (4, 4)
        Its last row is exactly 0, 0, 0, 1.

    Raises
    ------
    GeometryError
        If it is not a 4 x 4 matrix of finite real numbers, or if its last row is
        not 0, 0, 0, 1, as that of a transposed affine.
    """
    try:
        given = np.asarray(value)
    except (TypeError, ValueError):
        # Rows of different lengths.
        given = np.empty(0)
    if given.shape != (4, 4) or given.dtype.kind not in "iuf":
        raise GeometryError("the affine is not a 4 x 4 matrix of real numbers")
    affine = given.astype(np.float64)
    if not (np.abs(affine) < MAX_AFFINE_MM).all():
        raise GeometryError("the affine is not finite: give a 4 x 4 matrix of numbers in mm")
    if not np.allclose(affine[3], _LAST_ROW, rtol=0, atol=_ROUNDING):
        last = ", ".join(f"{number:.4g}" for number in affine[3])
        raise GeometryError(
            f"the last row of the affine is {last}, not 0, 0, 0, 1: transpose it if it is meant "
            "for row vectors"
        )
    affine[3] = _LAST_ROW
    return affine
