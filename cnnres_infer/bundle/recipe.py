"""Recipes: how the bytes of one file follow from those of another.

The variants of a bundle hold the same weights, rounded or rearranged. Instead of a
variant, a bundle may hold a recipe, a JSON file with the steps that make the variant
from the fp32 file. Each step gives bytes, and together, in order, they are the variant:

``{"bytes": TEXT}``
    The bytes themselves, in base64.
``{"weights": [START, SHAPE], "as": TYPE}``
    Weights of the source, a little-endian float32 array of SHAPE at the byte START,
    written as ``"float32"``, ``"float16"`` or ``"int8"``, rounded half to even; what is
    written as ``"float16"`` is rounded to float32 before, as networks are. Of the
    entries that a step may have in between, these are applied in this order:

    ``"inputs": [FIRST, LAST]``
        The range of the second axis to use, without LAST.
    ``"spread": {"taps": T, "split": SHAPE, "order": AXES, "shape": SHAPE}``
        A kernel (O, I, K, K) becomes (O, I, N, N): along an axis, the tap n is the
        sum of those k where T[n][k] is 1. Then it is reshaped, transposed and reshaped.
    ``"factors": [ROWS, COLUMNS]``
        Each weight is multiplied by the factor of its second index (COLUMNS), then by
        that of its first one (ROWS); both are little-endian float32 arrays in base64.

All is computed in float64, one operation after the other, so it gives the same bits on
every processor. That nothing else was made is for the caller to check by a hash.
"""

import base64
import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# How numbers of each type are stored.
FORMATS = {"float32": "<f4", "float16": "<f2", "int8": "i1"}
_MAX_TAPS = 8


def build(recipe: bytes, source: bytes, max_bytes: int) -> bytes:
    """Make a file by its recipe.

    Parameters
    ----------
    recipe
        Content of the recipe.
    source
        Content of the file that it is made from.
    max_bytes
        The most bytes that it may have.

    Returns
    -------
    bytes
        Content of the file.

    Raises
    ------
    ValueError
        If the recipe is malformed, does not suit the source, or makes too much.
    """
    try:
        parts: list[bytes] = []
        left = max_bytes
        for step in json.loads(recipe)["steps"]:
            parts.append(made(step, source, left))
            left -= len(parts[-1])
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"malformed ({error!r})") from error
    return b"".join(parts)


def made(step: dict[str, Any], source: bytes, max_bytes: int) -> bytes:
    """Make the bytes of a step; as `build`, but whatever is malformed raises whatever it does."""
    if "bytes" in step:
        content = base64.b64decode(step["bytes"], validate=True)
    else:
        weights = _weights(source, *step["weights"])
        if "inputs" in step:
            weights = weights[:, slice(*map(int, step["inputs"]))]
        if "spread" in step:
            weights = _spread(weights, **step["spread"], max_size=max_bytes)
        if "factors" in step:
            weights = _scaled(weights, *map(_factors, step["factors"]))
        content = _written(weights, step["as"])
    if len(content) > max_bytes:
        raise ValueError("makes more bytes than any network has")
    return content


def _spread(
    weights: NDArray[np.float64],
    taps: list[list[int]],
    split: list[int],
    order: list[int],
    shape: list[int],
    max_size: int,
) -> NDArray[np.float64]:
    """Kernel whose taps are sums of a kernel's taps; see the module.

    Sums are added up in a fixed order, and not by a library whose order may differ.
    """
    outputs, inputs, height, width = weights.shape
    if len(taps) > _MAX_TAPS or outputs * inputs * len(taps) ** 2 > max_size:
        raise ValueError("spreads a kernel over more taps than any network has")
    kernel = np.zeros((outputs, inputs, len(taps), len(taps)))
    for n, rows in enumerate(taps):
        for m, columns in enumerate(taps):
            for r in range(height):
                for s in range(width):
                    if rows[r] and columns[s]:
                        kernel[:, :, n, m] += weights[:, :, r, s]
    return kernel.reshape(split).transpose(order).reshape(shape)


def _scaled(
    weights: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weights times a factor for each index of the second axis, and then of the first one."""
    if weights.shape[:2] != (len(rows), len(columns)):
        raise ValueError("has other numbers of factors than of channels")
    after = (1,) * (weights.ndim - 2)
    return weights * columns.reshape(1, -1, *after) * rows.reshape(-1, 1, *after)


def _written(weights: NDArray[np.float64], kind: str) -> bytes:
    """Weights as the bytes of an array of a type, rounded half to even."""
    with np.errstate(all="ignore"):
        values = np.rint(weights).clip(-128, 127) if kind == "int8" else weights.astype(np.float32)
        return values.astype(FORMATS[kind]).tobytes()


def _weights(source: bytes, start: int, shape: list[int]) -> NDArray[np.float64]:
    count = math.prod(shape)
    if not (shape and min(shape) > 0 and start >= 0 and 4 * count <= len(source) - start):
        raise ValueError("asks for weights that the source does not have")
    found = np.frombuffer(source, "<f4", count, start).reshape(shape)
    return found.astype(np.float64)


def _factors(text: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
