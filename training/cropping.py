"""An engine that computes brains instead of frames, to measure what cropping changes."""

from collections import defaultdict
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import Engine, ModelFile, Probe, SharedEngine, Variants
from cnnres_infer.errors import BackendUnavailableError

_STEP = 32
_SMALLEST = 96


class CroppedEngine(SharedEngine[Engine]):
    """Cuts images to the boxes of their brains, in steps of 32 pixels from 96.

    See `cnnres_infer.engines.Engine`.

    Parameters
    ----------
    engine
        What computes the crops; it must take images of any size.
    """

    RUNTIME: ClassVar[str] = "The cropped engine"
    VARIANTS: ClassVar[Variants] = {}
    BATCH: ClassVar[int] = 16
    LEAST: ClassVar[int] = 1

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, engine.describe(), (None, None, None))

    @classmethod
    def probe(cls) -> Probe:
        return Probe(True, "another engine, cropped")

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        raise BackendUnavailableError("it crops for an engine that is open")

    def _compute(self, handle: Engine, images: FloatArray) -> FloatArray:
        """Images (N, C, H, W) to probabilities (N, 1, H, W), zero outside the crops."""
        output = np.zeros((len(images), 1, *images.shape[2:]), np.float32)
        boxes = [crop_box(image) for image in images]
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, (rows, columns) in enumerate(boxes):
            alike[rows.stop - rows.start, columns.stop - columns.start].append(i)
        for chosen in alike.values():
            crops = np.stack([images[i][:, *boxes[i]] for i in chosen])
            for i, answer in zip(chosen, handle.run(crops), strict=True):
                output[i][:, *boxes[i]] = answer
        return output

    def _release(self, handle: Engine) -> None:
        handle.close()


def crop_box(image: FloatArray) -> tuple[slice, slice]:
    """Rows and columns of the smallest crop that holds what is visible of (C, H, W)."""
    rows: NDArray[np.bool_] = np.any(image > 0, axis=(0, 2))
    columns: NDArray[np.bool_] = np.any(image > 0, axis=(0, 1))
    return _span(rows), _span(columns)


def _span(occupied: NDArray[np.bool_]) -> slice:
    places = np.flatnonzero(occupied)
    first, last = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 1)
    extent = min(len(occupied), max(_SMALLEST, -(-(last - first) // _STEP) * _STEP))
    start = min(max(0, (first + last - extent) // 2), len(occupied) - extent)
    return slice(start, start + extent)
