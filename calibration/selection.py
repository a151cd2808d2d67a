"""Selection of calibration slices: stratified, seeded and recorded by their hashes."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import FloatArray

_BANDS = 2


def choose_slices(
    images: FloatArray, positions: FloatArray, areas: NDArray[np.int64], count: int, seed: int
) -> list[int]:
    """Select slices that cover intensities, positions and lesion sizes evenly.

    The strata are the combinations of lesion size (none, up to the median,
    above), position and brightness (each up to or above the median). One slice
    of each in turn is drawn at random.

    Parameters
    ----------
    images
        (N, C, H, W).
    positions
        (N,), from 0 for the lowest slice of a volume to 1 for the highest.
    areas
        (N,), number of lesion pixels.

    Returns
    -------
    list of int
        `count` indices in ascending order, or all if there are fewer slices.
    """
    generator = np.random.default_rng(seed)
    brightness = np.array([image[image > 0].mean() if image.any() else 0.0 for image in images])
    size = np.where(areas == 0, 0, 1 + _band(areas, areas > 0))
    everywhere = np.ones(len(images), bool)
    keys = zip(size, _band(positions, everywhere), _band(brightness, everywhere), strict=True)
    strata: dict[tuple[int, ...], list[int]] = {}
    for index, key in enumerate(keys):
        strata.setdefault(tuple(int(k) for k in key), []).append(index)
    queues = [list(generator.permutation(strata[key])) for key in sorted(strata)]
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        chosen += [int(queue.pop()) for queue in queues if queue]
    return sorted(chosen[:count])


def slice_hashes(images: Sequence[FloatArray] | FloatArray) -> list[str]:
    """SHA-256 of each slice (C, H, W), rounded to 1/65535 so that float noise does not matter."""
    codes = (np.round(np.asarray(image) * 65535).astype("<u2") for image in images)
    return [hashlib.sha256(code.tobytes()).hexdigest() for code in codes]


def _band(
    values: NDArray[np.floating | np.signedinteger], among: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """For each value, 1 if it is above the median of those `among`, else 0."""
    if not among.any():
        return np.zeros(len(values), np.int64)
    edges = np.quantile(values[among], np.arange(1, _BANDS) / _BANDS)
    return np.searchsorted(edges, values)
