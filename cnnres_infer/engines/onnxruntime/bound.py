"""ONNX Runtime sessions with fixed memory on a GPU."""

import itertools
from typing import Any

import numpy as np

from cnnres_infer.core.arrays import FloatArray

_GRAPHS = itertools.count(1)


class Bound:
    """A session with its input and output bound to fixed GPU memory, as CUDA graphs require.

    Parameters
    ----------
    onnxruntime, session
        The module and the session.
    device
        ONNX Runtime's name for the memory, and the number of the GPU in CUDA.
    shape
        Shape of the images, (N, C, H, W).
    """

    def __init__(
        self, onnxruntime: Any, session: Any, device: tuple[str, int], shape: tuple[int, ...]
    ) -> None:
        image, probabilities = session.get_inputs()[0], session.get_outputs()[0]
        self._session = session
        self._images = np.zeros(shape, np.float32)
        self._input = onnxruntime.OrtValue.ortvalue_from_numpy(self._images, *device)
        result = (shape[0], 1, *shape[2:])
        self._output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            result, np.float32, *device
        )
        # A graph contains the addresses that it was captured with, so none may be shared.
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(next(_GRAPHS)))
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(image.name, self._input)
        self._binding.bind_ortvalue_output(probabilities.name, self._output)

    def run(self, images: FloatArray) -> FloatArray:
        """Compute as many images as fit, or fewer."""
        count = len(images)
        self._images[:count] = images
        self._input.update_inplace(self._images)
        self._session.run_with_iobinding(self._binding, self._options)
        return np.array(self._output.numpy()[:count])
