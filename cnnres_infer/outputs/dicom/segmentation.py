"""The lesion mask as a DICOM SEG."""

from typing import TYPE_CHECKING

import numpy as np

from cnnres_infer.core.case import Modality
from cnnres_infer.core.result import Result
from cnnres_infer.outputs.dicom import origin as origins
from cnnres_infer.outputs.dicom.concepts import (
    ABNORMAL,
    ARTIFICIAL_INTELLIGENCE,
    BRAIN,
    INFARCT,
    LESION,
    SEGMENTATION,
    Concept,
)
from cnnres_infer.outputs.dicom.geometry import Planes, frames_of
from cnnres_infer.outputs.dicom.objects import PRODUCT, Product, identity, stand_in
from cnnres_infer.outputs.dicom.origin import Origin
from cnnres_infer.outputs.dicom.references import (
    refer_to_sources,
    segmented_images,
    source_images,
)
from cnnres_infer.readers.dicom.headers import quiet

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# By their names in the standard.
BINARY, LABELMAP = "BINARY", "LABELMAP"
PRODUCTS = {
    BINARY: Product("seg", 9001, "Lesion segmentation"),
    LABELMAP: Product("labelmap", 9002, "Lesion label map"),
}


def omission(result: Result) -> str:
    """Why a result has no SEG; empty if it has."""
    if reason := origins.omission(result):
        return reason
    if not result.mask.data.any():
        return "the mask is empty, and a segmentation needs at least one frame"
    return ""


def finding(origin: Origin) -> Concept:
    """What the lesions are: a DWI shows infarcts, a FLAIR alone lesions of any kind."""
    return INFARCT if Modality.DWI in origin.result.provenance.inputs else LESION


def segmentation(origin: Origin, kind: str) -> "Dataset":
    """Make a SEG of one segment, with the frames that have any lesion.

    Parameters
    ----------
    origin
        The result, whose mask must not be empty.
    kind
        `BINARY` or `LABELMAP`.
    """
    import highdicom
    from highdicom.seg import Segmentation, SegmentDescription

    made, mask = origin.result.provenance, origin.result.mask
    planes = Planes.of(mask.grid)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=made.model,
        family=ARTIFICIAL_INTELLIGENCE.coded(),
        version=made.version,
        source=PRODUCT,
        parameters={
            "bundle_sha256": made.bundle_sha256,
            "backend": made.engine.backend,
            "precision": str(made.engine.precision),
        },
    )
    what = finding(origin)
    segment = SegmentDescription(
        segment_number=1,
        segment_label=what.meaning,
        segmented_property_category=ABNORMAL.coded(),
        segmented_property_type=what.coded(),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=origin.uid("lesions"),
        tracking_id="Lesions",
        anatomic_regions=[BRAIN.coded()],
    )
    space = "PATIENT"
    with quiet():
        dataset = Segmentation(
            source_images=[stand_in(origin, planes)],
            pixel_array=frames_of(mask),
            segmentation_type=kind,
            segment_descriptions=[segment],
            pixel_measures=highdicom.PixelMeasuresSequence(
                pixel_spacing=planes.spacing[:2],
                slice_thickness=planes.spacing[2],
                spacing_between_slices=planes.spacing[2],
            ),
            plane_orientation=highdicom.PlaneOrientationSequence(space, planes.orientation),
            plane_positions=[
                highdicom.PlanePositionSequence(space, position) for position in planes.positions
            ],
            content_label="LESIONS",
            content_description="Lesions, RESEARCH USE ONLY",
            omit_empty_frames=True,
            **identity(origin, PRODUCTS[kind]),
        )
    dataset.BodyPartExamined = "BRAIN"
    _name_dimensions(dataset, origin.uid(PRODUCTS[kind].name, "dimensions"))
    dataset.SourceImageSequence = segmented_images(origin)
    refer_to_sources(dataset, origin)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        _derive(frame, origin, planes)
    return dataset


def _name_dimensions(dataset: "Dataset", uid: str) -> None:
    """Replace the UID that highdicom makes up."""
    for item in (*dataset.DimensionIndexSequence, *dataset.DimensionOrganizationSequence):
        item.DimensionOrganizationUID = uid


def _derive(frame: "Dataset", origin: Origin, planes: Planes) -> None:
    """Refer to the frames that a frame of the mask was computed from.

    A mosaic is no image of a slice, so it is referred to by the series alone.
    """
    from pydicom.dataset import Dataset

    position = frame.PlanePositionSequence[0].ImagePositionPatient
    sources = origin.source.slices[planes.nearest(np.array(position, np.float64))]
    frame.DerivationImageSequence = []
    if any(each.tile is not None for each in sources):
        return
    item = Dataset()
    item.DerivationCodeSequence = [SEGMENTATION.item()]
    item.SourceImageSequence = source_images(sources, preserved=True)
    frame.DerivationImageSequence = [item]
