"""The brain mask as NIfTI, on the volume's own grid."""

from cnnres_infer.core.result import Result
from cnnres_infer.readers.nifti.write import volume_bytes


def render(result: Result) -> bytes:
    """Render the brain mask as compressed NIfTI, uint8, 1 inside."""
    return volume_bytes(result.brain.data, result.brain.grid, result.volume.source)
