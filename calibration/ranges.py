"""Ranges of activations, observed on calibration slices."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from cnnres_infer.core.arrays import FloatArray

_BATCH = 4


@dataclass(frozen=True)
class Observer:
    """How the range of a tensor is chosen from its values.

    Attributes
    ----------
    name
        Name in tables.
    method
        ONNX Runtime's method: the extremes, the range of least relative entropy
        between the histograms before and after, or a percentile of magnitudes.
    percentile
        The percentile, for that last method.
    """

    name: str
    method: CalibrationMethod
    percentile: float | None = None


OBSERVERS = (
    Observer("minmax", CalibrationMethod.MinMax),
    Observer("entropy", CalibrationMethod.Entropy),
    Observer("percentile 99.9", CalibrationMethod.Percentile, 99.9),
    Observer("percentile 99.99", CalibrationMethod.Percentile, 99.99),
    Observer("percentile 99.999", CalibrationMethod.Percentile, 99.999),
)


def observe(
    model: onnx.ModelProto, images: FloatArray, observer: Observer
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value to represent in each tensor of a float network.

    Parameters
    ----------
    images
        (N, C, H, W). Histograms need equal batches, so up to three of the last
        images are left out.
    """
    options = {} if observer.percentile is None else {"percentile": observer.percentile}
    types = sorted({node.op_type for node in model.graph.node})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            types,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=observer.method,
            extra_options=options,
        )
        with redirect_stdout(io.StringIO()):  # ONNX Runtime prints its progress
            calibrator.collect_data(_Reader(images, model.graph.input[0].name))
            found = calibrator.compute_data()
    ranges = {name: data.range_value for name, data in found.data.items()}
    return {name: (float(np.min(low)), float(np.max(high))) for name, (low, high) in ranges.items()}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Serves images in batches, as ONNX Runtime's calibrators want them."""

    def __init__(self, images: FloatArray, name: str) -> None:
        self._batches = self._cut(images, name)

    def get_next(self) -> dict[str, FloatArray] | None:
        return next(self._batches, None)

    @staticmethod
    def _cut(images: FloatArray, name: str) -> Iterator[dict[str, FloatArray]]:
        for first in range(0, len(images) - _BATCH + 1, _BATCH):
            yield {name: np.ascontiguousarray(images[first : first + _BATCH])}
