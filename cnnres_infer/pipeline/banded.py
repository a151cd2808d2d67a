"""Matrices with entries along their diagonal alone, in memory that grows with their length."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import FloatArray

# Up to this many entries, a matrix is kept whole: products of whole matrices are fast.
_MAX_WHOLE = 1 << 22
# Of a block: its rows, and about how many columns they span beside the width of the band.
_ROWS, _SPAN = 1024, 1024


@dataclass(frozen=True)
class Block:
    """A part of a matrix that holds all entries of some rows.

    Attributes
    ----------
    rows, columns
        Where it lies.
    entries
        float32 (rows, columns).
    """

    rows: slice
    columns: slice
    entries: FloatArray


@dataclass(frozen=True, eq=False)
class Banded:
    """A matrix in blocks of rows; a small one is a single block.

    Attributes
    ----------
    shape
        Number of rows and columns.
    blocks
        Together, all rows; where they have no columns, entries are zero.
    """

    shape: tuple[int, int]
    blocks: tuple[Block, ...]

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        place: NDArray[np.float64],
        reach: float,
        entries: Callable[[slice, slice], FloatArray],
    ) -> Self:
        """Build a matrix from a function that computes any part of it.

        Parameters
        ----------
        shape
            Number of rows and columns.
        place
            (rows,), ascending: the column around which each row's entries lie.
        reach
            How many columns away from there entries may differ from zero.
        entries
            Computes the entries of some rows and columns, float32.
        """
        n_rows, n_columns = shape
        if n_rows * n_columns <= _MAX_WHOLE:
            everything = slice(0, n_rows), slice(0, n_columns)
            return cls(shape, (Block(*everything, entries(*everything)),))
        step = (float(place[-1]) - float(place[0])) / max(1, n_rows - 1)
        height = max(1, min(_ROWS, int(_SPAN / max(step, 1e-9))))
        blocks = []
        for first in range(0, n_rows, height):
            rows = slice(first, min(first + height, n_rows))
            low = int(np.floor(place[rows][0] - reach))
            high = int(np.ceil(place[rows][-1] + reach)) + 1
            start = min(max(low, 0), n_columns)
            columns = slice(start, max(start, min(high, n_columns)))
            blocks.append(Block(rows, columns, entries(rows, columns)))
        return cls(shape, tuple(blocks))

    @property
    def _whole(self) -> FloatArray | None:
        """The only block, if it is the whole matrix."""
        entries = self.blocks[0].entries
        return entries if entries.shape == self.shape else None

    def dense(self) -> FloatArray:
        """The whole matrix."""
        if self._whole is not None:
            return self._whole
        matrix = np.zeros(self.shape, np.float32)
        for block in self.blocks:
            matrix[block.rows, block.columns] = block.entries
        return matrix

    def averaging(self) -> Self:
        """The same matrix with rows that sum to one."""
        return type(self)(
            self.shape,
            tuple(
                Block(
                    each.rows,
                    each.columns,
                    each.entries / each.entries.sum(axis=1, keepdims=True),
                )
                for each in self.blocks
            ),
        )

    def along_first(self, data: FloatArray) -> FloatArray:
        """Apply it along the first axis of (X, Y, Z)."""
        if self._whole is not None:
            return np.tensordot(self._whole, data, 1)
        result = np.empty((self.shape[0], *data.shape[1:]), np.float32)
        for block in self.blocks:
            result[block.rows] = np.tensordot(block.entries, data[block.columns], 1)
        return result

    def along_rows(self, planes: FloatArray) -> FloatArray:
        """Apply it along the rows of (N, rows, columns)."""
        if self._whole is not None:
            product: FloatArray = np.matmul(self._whole, planes)
            return product
        result = np.empty((len(planes), self.shape[0], planes.shape[2]), np.float32)
        for block in self.blocks:
            result[:, block.rows] = np.matmul(block.entries, planes[:, block.columns])
        return result

    def along_columns(self, planes: FloatArray) -> FloatArray:
        """Apply it along the columns of (N, rows, columns)."""
        if self._whole is not None:
            product: FloatArray = np.matmul(planes, self._whole.T)
            return product
        result = np.empty((*planes.shape[:2], self.shape[0]), np.float32)
        for block in self.blocks:
            result[:, :, block.rows] = np.matmul(planes[:, :, block.columns], block.entries.T)
        return result
