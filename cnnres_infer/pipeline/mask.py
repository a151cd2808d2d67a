"""Thresholding of probabilities, and measurement of the lesions."""

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.mask import Lesion, Mask, MaskSpec
from cnnres_infer.core.volume import Probabilities
from cnnres_infer.pipeline.box import bounding_box


def binarize(probabilities: Probabilities, spec: MaskSpec) -> tuple[Mask, tuple[Lesion, ...]]:
    """Threshold probabilities, remove small lesions and measure the others.

    Returns
    -------
    mask
        On the grid of the probabilities.
    lesions
        The lesions in descending order of size.
    """
    import cc3d

    grid = probabilities.grid
    above = spec.apply(probabilities.data)
    if not above.any():
        return Mask(above.view(np.uint8), grid), ()
    box = bounding_box(above)
    labels = cc3d.connected_components(above[box], connectivity=26)
    statistics = cc3d.statistics(labels)
    voxels = np.array(statistics["voxel_counts"], np.int64)
    keep = voxels * grid.voxel_ml >= spec.smallest_ml
    keep[0] = False
    data = above.view(np.uint8)
    data[box] = keep[labels]
    mask = Mask(data, grid)
    lesions = []
    origin = np.array([extent.start for extent in box], np.float64)
    for label in np.flatnonzero(keep):
        centre = statistics["centroids"][label] + origin
        lesions.append(
            Lesion(
                int(voxels[label]),
                float(voxels[label] * grid.voxel_ml),
                _triple(centre),
                _triple(grid.to_mm(centre)),
            )
        )
    return mask, tuple(sorted(lesions, key=lambda lesion: -lesion.voxels))


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
