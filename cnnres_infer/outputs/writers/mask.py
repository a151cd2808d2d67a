"""The lesion mask as NIfTI, on the volume's own grid."""

from cnnres_infer.core.result import Result
from cnnres_infer.readers.nifti.write import volume_bytes


def render(result: Result) -> bytes:
    """Render the mask as compressed NIfTI, uint8, 1 in lesions."""
    return volume_bytes(result.mask.data, result.mask.grid, result.volume.source)
