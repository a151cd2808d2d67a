"""Checks that a bundle's reference slices can tell a right engine from a wrong one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.host.arrays import read_arrays

# Of a lesion that all figures of an agreement count.
LESION_PIXELS = 50
_MAX_BYTES = 1 << 29


def read_slices(content: bytes, spec: ModelSpec) -> tuple[NDArray[np.uint8], FloatArray]:
    """Read the reference slices of a bundle, and check that they suit its model.

    Parameters
    ----------
    content
        Content of ``reference.npz``.
    spec
        The model.

    Returns
    -------
    images
        uint8 (N, C, H, W).
    probabilities
        float32 (N, 1, H, W) in [0, 1].

    Raises
    ------
    ValueError
        If the content is damaged or something else, or proves nothing.
    """
    arrays = read_arrays(content, ("images", "probabilities"), _MAX_BYTES)
    images, probabilities = arrays["images"], arrays["probabilities"]
    pixels = (spec.slices.size, spec.slices.size)
    _check(images, "images", np.uint8, (_length(images), spec.channels, *pixels))
    _check(probabilities, "probabilities", np.float32, (_length(images), 1, *pixels))
    check_lesions(probabilities, spec)
    return images, probabilities


def check_lesions(probabilities: FloatArray, spec: ModelSpec) -> None:
    """Check that PyTorch's probabilities for the slices tell engines apart.

    Without a lesion, every engine that finds none agrees; if everything is
    lesion, so does every engine that finds it everywhere.

    Raises
    ------
    ValueError
        If no slice holds a lesion of more than 50 pixels, or nothing else, or if
        values are not probabilities.
    """
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("values that are not probabilities")
    masks = spec.mask.apply(probabilities)
    if max(np.count_nonzero(masks, axis=(1, 2, 3)), default=0) <= LESION_PIXELS or masks.all():
        raise ValueError("the slices prove nothing: none shows a lesion beside healthy tissue")


def _length(array: NDArray[Any]) -> int:
    return array.shape[0] if array.ndim else 0


def _check(array: NDArray[Any], name: str, dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"{name} are {array.dtype} {array.shape}, not {np.dtype(dtype).name} {shape}"
        )
