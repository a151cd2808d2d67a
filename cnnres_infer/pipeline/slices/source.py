"""A volume's slices as the network's images are cut from them, without a copy of a large volume."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.spec import SliceSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.chunks import chunks
from cnnres_infer.pipeline.shading import Shading
from cnnres_infer.pipeline.slices.geometry import SliceGeometry
from cnnres_infer.pipeline.slices.normalisation import median_of_tissue
from cnnres_infer.pipeline.voxels import nonzero_in

# Voxels whose slices are kept without shading, since they are needed twice: 16 MB.
_KEPT = 1 << 22


@dataclass(frozen=True, eq=False)
class SliceSource:
    """The slices of a volume, without shading if the model wants that.

    Attributes
    ----------
    volume
        The volume.
    geometry
        The slice geometry of its grid.
    shading
        What is removed; None to leave the slices as they are.
    kept
        All slices of the geometry's box without it, if these are few.
    """

    volume: Volume
    geometry: SliceGeometry
    shading: Shading | None
    kept: FloatArray | None = None

    @classmethod
    def of(cls, volume: Volume, brain: BoolArray, geometry: SliceGeometry, spec: SliceSpec) -> Self:
        """Estimate the shading of a volume if `spec`, that of its modality, has it removed."""
        if spec.shading not in ("none", "removed"):
            raise ValueError(f"shading {spec.shading!r}: take the spec of a modality")
        removed = spec.shading == "removed"
        shading = Shading.of(volume, brain, geometry.box) if removed else None
        kept = None if shading is None else _kept(geometry.planes(volume.data), shading)
        return cls(volume, geometry, shading, kept)

    def planes(self, z: NDArray[np.intp]) -> FloatArray:
        """A copy of slices, as far as they hold brain.

        Parameters
        ----------
        z
            (N,), the slices, all of them with brain.

        Returns
        -------
        float32 (N, rows, columns)
            The rows and columns of the geometry's box.
        """
        if self.kept is None:
            return self._cut(z)
        kept: FloatArray = self.kept[z - self.geometry.box[0].start]
        return kept

    def _cut(self, z: NDArray[np.intp]) -> FloatArray:
        _, rows, columns = self.geometry.box
        planes: FloatArray = self.geometry.planes(self.volume.data)[z, rows, columns]
        if self.shading is not None:
            self.shading.remove(planes, z)
        return planes

    def saturation(self, inside: BoolArray, z: NDArray[np.intp], spec: SliceSpec) -> float:
        """Intensity that is mapped to 1.0.

        Voxels of zero are ignored, since skull stripping may leave some inside
        the brain mask.

        Parameters
        ----------
        inside
            bool (slices, rows, columns), True in the brain: that of the geometry's box.
        z
            (N,), the slices with brain.
        spec
            Normalisation of the network's images.

        Raises
        ------
        VolumeError
            If most of the brain is not positive.
        """
        if self.kept is not None:
            values = nonzero_in(self.kept, inside)
        else:
            values = self._nonzero(inside, z)
        return spec.ceiling * median_of_tissue(values, self.volume.name)

    def _nonzero(self, inside: BoolArray, z: NDArray[np.intp]) -> FloatArray:
        values = np.empty(np.count_nonzero(inside), np.float32)
        count = 0
        for chunk in chunks(len(z)):
            planes = self._cut(z[chunk])
            found = planes[inside[z[chunk] - self.geometry.box[0].start] & (planes != 0)]
            values[count : count + len(found)] = found
            count += len(found)
        return values[:count]


def _kept(planes: FloatArray, shading: Shading) -> FloatArray | None:
    """All slices of the box of a shading, without it; None if they are too many to be kept."""
    if math.prod(each.stop - each.start for each in shading.box) > _KEPT:
        return None
    kept = planes[shading.box].copy("C")
    z = np.arange(len(planes))[shading.box[0]]
    for chunk in chunks(len(z)):
        shading.remove(kept[chunk], z[chunk])
    return kept
