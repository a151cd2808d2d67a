"""Matrices with entries along their diagonal alone, whose products take time for these only."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.pipeline.box import extent

# Rows that are multiplied at once: enough for BLAS to be fast, and so few that most of the
# columns that they span are within the band.
_ROWS = 16


@dataclass(frozen=True, eq=False)
class Banded:
    """A matrix in blocks of rows, of each of which only the columns of its band are kept.

    Attributes
    ----------
    shape
        Number of rows and columns.
    starts
        (blocks,): the first column of each block; may be before the matrix or after it.
    entries
        float32 (rows, span): of each row, what the block's columns hold; zero where these
        are beyond the matrix.
    missing
        How many rows fewer than others the first block has.
    """

    shape: tuple[int, int]
    starts: NDArray[np.intp]
    entries: FloatArray
    missing: int = 0

    def __post_init__(self) -> None:
        for array in (self.starts, self.entries):
            array.setflags(write=False)

    @classmethod
    def of(cls, n_columns: int, first: NDArray[np.intp], band: NDArray[np.floating]) -> Self:
        """Build a matrix from the band of each row.

        Parameters
        ----------
        n_columns
            Number of columns.
        first
            (rows,), ascending: the column of each row's first entry. Bands may begin
            before the first column and end after the last, and are cut off there.
        band
            (rows, K): consecutive entries of each row.
        """
        n_rows, length = band.shape
        starts = first[::_ROWS]
        shift = first - np.repeat(starts, _ROWS)[:n_rows]
        entries = np.zeros((n_rows, int(shift.max(initial=0)) + length), np.float32)
        offsets = np.arange(length)
        columns = first[:, None] + offsets
        within = np.where((columns >= 0) & (columns < n_columns), band, 0)
        entries[np.arange(n_rows)[:, None], shift[:, None] + offsets] = within
        return cls((n_rows, n_columns), starts, entries)

    def over(self, columns: slice) -> tuple[slice, Self]:
        """The rows with entries in some columns, and the matrix of these rows and columns alone."""
        block, column, held = self._places()
        rows = extent((held & (column >= columns.start) & (column < columns.stop)).any(axis=1))
        first, last = block[rows][[0, -1]] if rows.stop else (0, -1)
        part = type(self)(
            (rows.stop - rows.start, columns.stop - columns.start),
            self.starts[first : last + 1] - columns.start,
            self.entries[rows],
            (rows.start + self.missing) % _ROWS,
        )
        return rows, part

    def reach(self, columns: slice) -> slice:
        """All columns with entries in the rows that have entries in some columns."""
        _, column, held = self._places()
        touched = (held & (column >= columns.start) & (column < columns.stop)).any(axis=1)
        reached = column[held & touched[:, None]]
        return slice(int(reached.min()), int(reached.max()) + 1) if len(reached) else slice(0, 0)

    def dense(self) -> FloatArray:
        """The whole matrix."""
        matrix = np.zeros(self.shape, np.float32)
        for rows, columns, entries in self._blocks:
            matrix[rows, columns] = entries
        return matrix

    def averaging(self) -> Self:
        """The same matrix with rows that sum to one."""
        return replace(self, entries=self.entries / self.entries.sum(axis=1, keepdims=True))

    def along_first(self, data: FloatArray) -> FloatArray:
        """Apply it along the first axis of (X, Y, Z)."""
        result = np.empty((self.shape[0], *data.shape[1:]), np.float32)
        rest = math.prod(data.shape[1:])
        flat, flat_result = (each.reshape(len(each), rest) for each in (data, result))
        for rows, columns, entries in self._blocks:
            np.matmul(entries, flat[columns], out=flat_result[rows])
        return result

    def along_rows(self, planes: FloatArray) -> FloatArray:
        """Apply it along the rows of (N, rows, columns)."""
        result = np.empty((len(planes), self.shape[0], planes.shape[2]), np.float32)
        for rows, columns, entries in self._blocks:
            np.matmul(entries, planes[:, columns], out=result[:, rows])
        return result

    def along_columns(self, planes: FloatArray) -> FloatArray:
        """Apply it along the columns of (N, rows, columns)."""
        result = np.empty((*planes.shape[:2], self.shape[0]), np.float32)
        count = math.prod(planes.shape[:2])
        flat, flat_result = (each.reshape(count, each.shape[2]) for each in (planes, result))
        for rows, columns, entries in self._blocks:
            np.matmul(flat[:, columns], entries.T, out=flat_result[:, rows])
        return result

    def _places(self) -> tuple[NDArray[np.intp], NDArray[np.intp], BoolArray]:
        """The block (rows,) of each row, its columns (rows, span), and where it has entries."""
        n_rows, span = self.entries.shape
        block = (np.arange(n_rows) + self.missing) // _ROWS
        return block, self.starts[block][:, None] + np.arange(span), self.entries != 0

    @cached_property
    def _blocks(self) -> tuple[tuple[slice, slice, FloatArray], ...]:
        """Rows and columns of each block, and its entries."""
        n_rows, n_columns = self.shape
        span = self.entries.shape[1]
        blocks = []
        for index, start in enumerate(self.starts.tolist()):
            place = index * _ROWS - self.missing
            rows = slice(max(0, place), min(place + _ROWS, n_rows))
            begin = min(max(start, 0), n_columns)
            columns = slice(begin, max(begin, min(start + span, n_columns)))
            first = max(0, begin - start)
            blocks.append((rows, columns, self.entries[rows, first : first + columns.stop - begin]))
        return tuple(blocks)
