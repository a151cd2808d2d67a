"""The measurements as a DICOM SR (TID 1500)."""

from cnnres_infer.core.result import Result
from cnnres_infer.outputs.dicom.content import measurement_report
from cnnres_infer.outputs.dicom.objects import finish
from cnnres_infer.outputs.dicom.origin import Origin, omission
from cnnres_infer.outputs.dicom.segmentation import BINARY, LABELMAP, segmentation

__all__ = ["omission", "render"]

_KINDS = {"dicom-seg": BINARY, "dicom-labelmap": LABELMAP}


def render(result: Result) -> bytes:
    """Render lesions, warnings and parity; it refers to the SEG that is written with it, if any."""
    origin = Origin.of(result)
    kinds = [kind for name, kind in _KINDS.items() if name in result.formats]
    segmented = segmentation(origin, kinds[0]) if kinds else None
    return finish(measurement_report(origin, segmented), origin)
