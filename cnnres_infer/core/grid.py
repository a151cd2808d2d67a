"""Where the voxels of a volume lie in the patient, and which way its axes run."""

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import Affine
from cnnres_infer.errors import GeometryError

T = TypeVar("T", bound=np.generic)

# Beyond these no scanner makes an image of a head.
_SMALLEST_MM, _LARGEST_MM = 0.01, 100.0
FARTHEST_MM = 1e7
# Least determinant of direction cosines: below it two axes are as good as parallel.
_PARALLEL = 1e-3


@dataclass(frozen=True)
class Orientation:
    """How the axes of a grid become those of axial slices in radiological orientation.

    Row 0 of a slice is anterior, column 0 is the patient's right, and slice 0
    is the most inferior one.

    Attributes
    ----------
    axes
        Voxel axis of the rows, of the columns, and of the slices.
    flips
        Whether each of these three runs against its voxel axis.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def view(self, data: NDArray[T]) -> NDArray[T]:
        """View voxels (X, Y, Z) as (rows, columns, slices)."""
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return data.transpose(self.axes)[steps]

    def planes(self, data: NDArray[T]) -> NDArray[T]:
        """View voxels (X, Y, Z) as (slices, rows, columns)."""
        return np.moveaxis(self.view(data), 2, 0)

    def slice_index(self, z: int, count: int) -> int:
        """Voxel index, along the slice axis of `count` voxels, of the z-th slice from below."""
        return count - 1 - z if self.flips[2] else z


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume lie in the patient.

    Attributes
    ----------
    shape
        Voxels along each of the three axes.
    affine
        float64 (4, 4), read-only: voxel indices to mm in RAS+ (right, anterior
        and superior are positive). A copy of what was given.

    Raises
    ------
    GeometryError
        If the affine is no transform of finite numbers, is singular, or gives
        voxels of a size that no scanner makes.
    """

    shape: tuple[int, int, int]
    affine: Affine

    @np.errstate(all="ignore")
    def __post_init__(self) -> None:
        affine = np.array(self.affine, np.float64)
        if affine.shape != (4, 4) or not (np.abs(affine) < FARTHEST_MM).all():
            raise GeometryError("the affine is not a 4 x 4 matrix of finite numbers in mm")
        if not np.linalg.norm(affine[:3, :3], axis=0).all() or not np.linalg.det(affine[:3, :3]):
            raise GeometryError(
                "the affine is singular: the volume has no extent in some direction"
            )
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if not ((spacing >= _SMALLEST_MM) & (spacing <= _LARGEST_MM)).all():
            raise GeometryError(
                "voxels of " + " x ".join(f"{step:.3g}" for step in spacing) + " mm are no image "
                "of a head; correct the header or the affine",
                code=ErrorCode.GRID_SPACING,
            )
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each axis, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml, from the determinant (right for sheared grids too)."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @cached_property
    def orientation(self) -> Orientation:
        """The voxel axes that run closest to posterior, left and superior.

        Of the six ways to assign three voxel axes to three directions, the one
        with the largest sum of direction cosines is taken, so that oblique
        grids too get three different axes.

        Raises
        ------
        GeometryError
            If two axes of the grid are parallel.
        """
        cosines = self.affine[:3, :3] / np.asarray(self.spacing)
        if abs(np.linalg.det(cosines)) < _PARALLEL:
            raise GeometryError("two axes of the volume are parallel: its sform or qform is broken")
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
        """Voxel indices (..., 3) to RAS+ positions in mm (..., 3)."""
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def matches(self, other: Self, tolerance: float = 1e-3) -> bool:
        """Tell whether two grids are one, to `tolerance` in mm."""
        return self.shape == other.shape and bool(
            np.allclose(self.affine, other.affine, rtol=0, atol=tolerance)
        )
