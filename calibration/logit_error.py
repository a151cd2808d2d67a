"""The error of a candidate's logits near the threshold, where they decide the mask."""

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.errors import UsageError
from cnnres_infer.pipeline.infer import Network

NEAR = 2.0
_SMALLEST = 1e-6


class LogitError:
    """Measures how far a candidate's logits are from PyTorch's near the threshold.

    Where lesions are small, a mean Dice moves in leaps; this error averages over
    thousands of pixels and so tells close candidates apart.

    Parameters
    ----------
    images
        (N, C, H, W).
    expected
        PyTorch's probabilities (N, 1, H, W) for them.
    threshold
        Probability from which a pixel is lesion.

    Raises
    ------
    UsageError
        If no pixel is near the threshold.
    """

    def __init__(self, images: FloatArray, expected: FloatArray, threshold: float) -> None:
        logits, (edge,) = _logits(expected), _logits(np.array([threshold], np.float32))
        near = np.abs(logits - edge) < NEAR
        if not near.any():
            raise UsageError(
                "no pixel of the calibration patients is near the threshold: add some with lesions"
            )
        slices = near.any(axis=(1, 2, 3))
        self._images, self._logits, self._near = images[slices], logits[slices], near[slices]

    def __call__(self, candidate: Network) -> float:
        """Root mean square error over the pixels whose logit is within 2 of the threshold's."""
        error = (_logits(candidate(self._images)) - self._logits)[self._near]
        return float(np.sqrt(np.mean(error**2)))


def _logits(probabilities: FloatArray) -> FloatArray:
    inside = probabilities.astype(np.float64).clip(_SMALLEST, 1 - _SMALLEST)
    logits: FloatArray = np.log(inside / (1 - inside)).astype(np.float32)
    return logits
