"""The frames of a mask as DICOM places them."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.grid import Grid
from cnnres_infer.core.mask import Mask

_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
# In mm and as cosines: what is left of rounding in products is not written out.
_DECIMALS = 9


@dataclass(frozen=True, eq=False)
class Planes:
    """The slices of a volume that was read from DICOM, as frames.

    Attributes
    ----------
    orientation
        (6,): direction cosines of the rows and of the columns in LPS+.
    positions
        (slices, 3): centre of the first pixel of each in LPS+ mm.
    spacing
        Distance between rows, between columns and between slices in mm.
    """

    orientation: NDArray[np.float64]
    positions: NDArray[np.float64]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, grid: Grid) -> Self:
        """The slices of a grid as the reader makes it: x along rows, y against their order."""
        _, rows, slices = grid.shape
        corners = np.array([(0, rows - 1, z) for z in range(slices)], np.float64)
        x, y, z = grid.spacing
        along_row, along_column = grid.affine[:3, 0] / x, -grid.affine[:3, 1] / y
        return cls(
            np.round(np.concatenate((along_row * _RAS_TO_LPS, along_column * _RAS_TO_LPS)), 12),
            np.round(to_lps(grid.to_mm(corners)), _DECIMALS),
            (round(y, _DECIMALS), round(x, _DECIMALS), round(z, _DECIMALS)),
        )

    def nearest(self, position: NDArray[np.float64]) -> int:
        """Index of the slice at a position (3,) in LPS+ mm."""
        return int(np.linalg.norm(self.positions - position, axis=1).argmin())


def frames_of(mask: Mask) -> NDArray[np.uint8]:
    """The pixels of a mask (slices, rows, columns), in the order of `Planes.positions`."""
    return np.ascontiguousarray(mask.data[:, ::-1].transpose(2, 1, 0))


def to_lps(mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn positions (..., 3) from RAS+ to LPS+."""
    turned: NDArray[np.float64] = mm * _RAS_TO_LPS
    return turned
