"""The network's outputs on the volume's own grid, where and when they are asked for."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import compress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.batch import Box, SliceBatch, hull, overlap
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Probabilities
from cnnres_infer.host.blas import single_blas_thread
from cnnres_infer.host.deadline import check_time
from cnnres_infer.pipeline.box import extent
from cnnres_infer.pipeline.chunks import chunks
from cnnres_infer.pipeline.slices.geometry import SliceGeometry

# An average of pixels that are all the same may be rounded to more than they are.
_SLIGHTLY_MORE = np.float32(1.0001)


class LesionMap(ABC):
    """Lesion probabilities of a volume, computed slice by slice from what the network returned.

    That takes a fraction of the memory of probabilities on the volume's grid.

    Parameters
    ----------
    grid
        The grid of the volume that the network's images were extracted from.
    geometry
        The geometry that they were extracted with.
    """

    def __init__(self, grid: Grid, geometry: SliceGeometry) -> None:
        self.grid, self._geometry = grid, geometry

    @property
    @abstractmethod
    def z(self) -> list[int]:
        """The slices that were computed, counted from inferior, in ascending order."""

    @property
    @abstractmethod
    def pixels(self) -> Box:
        """The rows and columns of images that were computed, in any slice."""

    @abstractmethod
    def planes(self, z: NDArray[np.intp], pixels: Box) -> tuple[Box, FloatArray]:
        """Probabilities of slices that were computed.

        Parameters
        ----------
        z
            (N,), the slices.
        pixels
            Rows and columns of images, beyond which all are taken as zero.

        Returns
        -------
        box
            Rows and columns of voxels; all other probabilities are zero.
        planes
            float32 (N, rows, columns): the probabilities there.
        """

    @abstractmethod
    def bright(self, rule: Callable[[FloatArray], BoolArray]) -> dict[int, Box]:
        """Slices with pixels for which a rule holds, and the rows and columns of these.

        So that rounding hides none, it is applied to values that are slightly larger.
        """

    def above(self, rule: Callable[[FloatArray], BoolArray]) -> BoolArray:
        """Apply a threshold to the probabilities.

        Parameters
        ----------
        rule
            Holds for all values above any for which it holds. A voxel is an average of
            pixels, so only those are computed that bright pixels have a share in.

        Returns
        -------
        bool (X, Y, Z)
            False where nothing was computed.
        """
        # In NIfTI's order, in which most volumes store slices contiguously.
        found = np.zeros(self.grid.shape, np.bool_, order="F")
        planes = self._geometry.planes(found)
        bright = self.bright(rule)
        for z in _in_chunks(sorted(bright)):
            pixels = self._geometry.deciding(hull(bright[each] for each in z.tolist()))
            box, values = self.planes(z, pixels)
            planes[z, *box] = rule(values)
        return found

    def probabilities(self) -> Probabilities:
        """Compute all probabilities; zero in slices never computed, and outside the images."""
        data = np.zeros(self.grid.shape, np.float32, order="F")
        planes = self._geometry.planes(data)
        pixels = self.pixels
        # As when the mask was made: several threads may round otherwise.
        with single_blas_thread():
            for z in _in_chunks(self.z):
                box, values = self.planes(z, pixels)
                planes[z, *box] = values
        return Probabilities(data, self.grid)


class _Output(NamedTuple):
    """The network's output for a slice, float32 (H, W), where it lies, and the highest of it."""

    pixels: FloatArray
    place: Box
    highest: float


class SliceOutputs(LesionMap):
    """The network's outputs for the slices of one volume."""

    def __init__(self, grid: Grid, geometry: SliceGeometry) -> None:
        super().__init__(grid, geometry)
        self._outputs: dict[int, _Output] = {}

    def put(self, batch: SliceBatch, output: FloatArray) -> None:
        """Add the network's output for a batch, float32 (N, 1, H, W)."""
        highest = output.max(axis=(1, 2, 3)).tolist()
        found = zip(output[:, 0], batch.places, highest, strict=True)
        self._outputs.update(zip(batch.z.tolist(), map(_Output._make, found), strict=True))

    @property
    def z(self) -> list[int]:
        return sorted(self._outputs)

    @property
    def pixels(self) -> Box:
        return hull(each.place for each in self._outputs.values())

    def bright(self, rule: Callable[[FloatArray], BoolArray]) -> dict[int, Box]:
        found = {}
        highest = np.array([each.highest for each in self._outputs.values()], np.float32)
        for z in compress(self._outputs, rule(highest * _SLIGHTLY_MORE)):
            pixels, (rows, columns), _ = self._outputs[z]
            fulfilled = rule(pixels * _SLIGHTLY_MORE)
            in_rows, in_columns = (np.logical_or.reduce(fulfilled, axis) for axis in (1, 0))
            found[z] = _occupied(in_rows, rows), _occupied(in_columns, columns)
        return found

    def planes(self, z: NDArray[np.intp], pixels: Box) -> tuple[Box, FloatArray]:
        height, width = (each.stop - each.start for each in pixels)
        images = np.zeros((len(z), height, width), np.float32)
        for image, index in zip(images, z.tolist(), strict=True):
            output = self._outputs[index]
            here, there = overlap(pixels, output.place)
            image[here] = output.pixels[there]
        box, planes = self._geometry.part_to_voxels(images, pixels)
        return box, np.clip(planes, 0.0, 1.0, out=planes)


def _in_chunks(z: list[int]) -> Iterator[NDArray[np.intp]]:
    for chunk in chunks(len(z)):
        check_time()
        yield np.array(z[chunk], np.intp)


def _occupied(profile: BoolArray, whole: slice) -> slice:
    """The part of an extent where its profile is True."""
    part = extent(profile)
    return slice(whole.start + part.start, whole.start + part.stop)
