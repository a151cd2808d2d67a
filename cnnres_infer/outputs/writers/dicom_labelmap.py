"""The lesion mask as a DICOM SEG, one number a voxel (a label map)."""

from cnnres_infer.core.result import Result
from cnnres_infer.outputs.dicom.objects import finish
from cnnres_infer.outputs.dicom.origin import Origin
from cnnres_infer.outputs.dicom.segmentation import LABELMAP, omission, segmentation

__all__ = ["omission", "render"]


def render(result: Result) -> bytes:
    """Render the mask on the frames of the source, in its frame of reference."""
    origin = Origin.of(result)
    return finish(segmentation(origin, LABELMAP), origin)
