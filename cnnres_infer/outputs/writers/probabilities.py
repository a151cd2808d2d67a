"""The lesion probabilities as NIfTI, on the volume's own grid."""

from cnnres_infer.core.result import Result
from cnnres_infer.readers.nifti.write import volume_bytes


def render(result: Result) -> bytes:
    """Render the probabilities as compressed NIfTI, float32 in [0, 1]."""
    return volume_bytes(result.probabilities.data, result.probabilities.grid, result.volume.source)
