"""Mosaics: the slices of a volume as tiles of one image (Siemens; United Imaging's VFRAME)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import GeometryError
from cnnres_infer.readers.dicom.views import View

_MAX_TILES = 4096


@dataclass(frozen=True, eq=False)
class Tiles:
    """The layout of a mosaic.

    Attributes
    ----------
    count
        Number of slices.
    columns
        Number of tiles in a row of tiles.
    shape
        Rows and columns of pixels of a tile.
    positions
        (count, 3): positions of the slices in LPS+ mm, where the file states
        them; None where they follow from `step`.
    step
        (3,): from one slice to the next in mm; zero with `positions`.
    """

    count: int
    columns: int
    shape: tuple[int, int]
    positions: NDArray[np.float64] | None
    step: NDArray[np.float64]

    def region(self, tile: int) -> tuple[slice, slice]:
        """Rows and columns of a tile in the image."""
        row, column = divmod(tile, self.columns)
        rows, columns = self.shape
        return (
            slice(row * rows, (row + 1) * rows),
            slice(column * columns, (column + 1) * columns),
        )

    def position(
        self,
        tile: int,
        corner: NDArray[np.float64],
        column_vector: NDArray[np.float64],
        row_vector: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Position of a tile.

        A Siemens mosaic states the corner of the whole image about the centre of
        the first slice, as if that slice had the size of the mosaic.

        Parameters
        ----------
        tile
            Index of the tile.
        corner
            (3,): position of the image.
        column_vector, row_vector
            (3,): from one column, and from one row, to the next in mm.
        """
        if self.positions is not None:
            stated: NDArray[np.float64] = self.positions[tile]
            return stated
        rows, columns = self.shape
        beyond = self.columns - 1
        first: NDArray[np.float64] = corner + beyond * (
            column_vector * columns / 2 + row_vector * rows / 2
        )
        return first + tile * self.step


def tiles_of(
    view: View,
    shape: tuple[int, int],
    name: str,
    normal: NDArray[np.float64] | None,
) -> Tiles:
    """Layout of a mosaic.

    Parameters
    ----------
    view
        The attributes of the image.
    shape
        Rows and columns of the whole image.
    name
        Name of the file in messages.
    normal
        (3,): unit vector perpendicular to the image, by its orientation; None
        without.

    Raises
    ------
    GeometryError
        If the file does not state the number of slices or their direction.
    """
    positions = _uih_positions(view)
    stated = (
        view.private_numbers(0x0065, 0x50, "")
        or view.private_numbers(0x0019, 0x0A, "SIEMENS MR HEADER", "u2")
        or view.csa_numbers("NumberOfImagesInMosaic")
    )
    count = int(stated[0]) if stated else 0
    if positions is not None and len(positions) != count:
        raise unplaced(name, f"positions of {len(positions)} slices for {count}")
    if not 0 < count <= _MAX_TILES:
        raise unplaced(name, "the number of slices is missing")
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns) if positions is not None else columns
    if shape[0] % rows or shape[1] % columns:
        raise unplaced(name, f"{shape[0]} x {shape[1]} pixels do not divide into {count} slices")
    tile = (shape[0] // rows, shape[1] // columns)
    if positions is not None:
        return Tiles(count, columns, tile, positions, np.zeros(3))
    direction = view.csa_numbers("SliceNormalVector", 3)
    spacing = view.number("SpacingBetweenSlices") or view.number("SliceThickness")
    if normal is None or direction is None or not spacing:
        raise unplaced(name, "the direction or the distance of its slices is missing")
    # The vector is rounded; of it, only the sign is not in the orientation.
    sign = np.sign(np.asarray(direction, np.float64) @ normal)
    return Tiles(count, columns, tile, None, sign * spacing * normal)


def _uih_positions(view: View) -> NDArray[np.float64] | None:
    sequence = view.private(0x0065, 0x51, "")
    try:
        found = [[float(each) for each in item.ImagePositionPatient] for item in sequence or ()]
    except (AttributeError, TypeError, ValueError):
        return None
    return np.array(found) if found and all(len(each) == 3 for each in found) else None


def unplaced(name: str, reason: str) -> GeometryError:
    """The error of a mosaic whose slices cannot be placed."""
    return GeometryError(
        f"{name}: a mosaic whose slices cannot be placed: {reason}; export the series again with "
        "its private attributes, or as one file a slice",
        code=ErrorCode.DICOM_SLICES,
    )
