"""An engine that leaves the processor alone, so that all around the network can be measured."""

import time
from typing import ClassVar, Self

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import ModelFile, Probe, SharedEngine, Variants

# In the network's images, tissue is at one half, and the lesions of phantoms at 0.9.
_LEVEL, _SLOPE = np.float32(0.65), np.float32(4)


class StubEngine(SharedEngine[object]):
    """Takes what is much brighter than tissue for lesion, so that there are masks to restore.

    Parameters
    ----------
    slice_ms
        Milliseconds that it waits for each slice, as if a GPU computed it.
    """

    RUNTIME: ClassVar[str] = "stub"
    VARIANTS: ClassVar[Variants] = {Precision.FP32: ()}
    BATCH: ClassVar[int] = 8
    LEAST: ClassVar[int] = 1

    def __init__(self, slice_ms: float = 0.0) -> None:
        info = EngineInfo("stub", "numpy", Precision.FP32, "none", 1, {"numpy": np.__version__})
        super().__init__(object(), info, (None, None, None))
        self._slice_ms = slice_ms

    @classmethod
    def probe(cls) -> Probe:
        return Probe(usable=True, reason="NumPy")

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        return cls()

    def _compute(self, handle: object, images: FloatArray) -> FloatArray:
        if self._slice_ms:
            time.sleep(len(images) * self._slice_ms / 1000)
        probabilities: FloatArray = ((images[:, :1] - _LEVEL) * _SLOPE).clip(0, 1)
        return probabilities
