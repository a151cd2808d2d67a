"""References to the images that a result was computed from."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cnnres_infer.outputs.dicom.concepts import SOURCE_IMAGE
from cnnres_infer.outputs.dicom.origin import Origin
from cnnres_infer.readers.dicom.source import FrameReference

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def source_images(frames: Iterable[FrameReference], *, preserved: bool) -> "list[Dataset]":
    """Items of a Source Image Sequence, each with the numbers of the frames that were used.

    Parameters
    ----------
    frames
        The frames.
    preserved
        Whether they have the pixels of what refers to them, one for one.
    """
    items = []
    for (sop_class, sop_instance), numbers in _by_instance(frames).items():
        item = _instance(sop_class, sop_instance)
        if numbers:
            item.ReferencedFrameNumber = numbers if len(numbers) > 1 else numbers[0]
        item.PurposeOfReferenceCodeSequence = [SOURCE_IMAGE.item()]
        if preserved:
            item.SpatialLocationsPreserved = "YES"
        items.append(item)
    return items


def segmented_images(origin: Origin) -> "list[Dataset]":
    """Items of a Source Image Sequence with what was segmented, companions left out."""
    frames = (frame for layer in origin.source.slices for frame in layer)
    return source_images(frames, preserved=False)


def refer_to_sources(dataset: "Dataset", origin: Origin) -> None:
    """Refer to all source instances, as the Common Instance Reference module does."""
    ours, others = _studies(origin, "ReferencedInstanceSequence")
    dataset.ReferencedSeriesSequence = ours.ReferencedSeriesSequence
    if others:
        dataset.StudiesContainingOtherReferencedInstancesSequence = others


def list_evidence(report: "Dataset", origin: Origin, segmentation: "Dataset | None") -> None:
    """List all source instances and the segmentation as the evidence of an SR."""
    ours, others = _studies(origin, "ReferencedSOPSequence")
    if segmentation is not None:
        instance = _instance(segmentation.SOPClassUID, segmentation.SOPInstanceUID)
        series = _series(segmentation.SeriesInstanceUID, "ReferencedSOPSequence", [instance])
        ours.ReferencedSeriesSequence.append(series)
    report.CurrentRequestedProcedureEvidenceSequence = [ours]
    if others:
        report.PertinentOtherEvidenceSequence = others


def _studies(origin: Origin, keyword: str) -> "tuple[Dataset, list[Dataset]]":
    """All source instances by study and series: those of the segmented study, and of others.

    `keyword`: the sequence in which a series lists its instances.
    """
    from pydicom.dataset import Dataset

    found: dict[str, dict[str, dict[str, Dataset]]] = {}
    for source in origin.sources:
        series = found.setdefault(source.study, {}).setdefault(source.series, {})
        for frame in (frame for layer in source.slices for frame in layer):
            series[frame.sop_instance] = _instance(frame.sop_class, frame.sop_instance)
    studies = []
    for study, all_series in found.items():
        item = Dataset()
        item.StudyInstanceUID = study
        item.ReferencedSeriesSequence = [
            _series(uid, keyword, list(instances.values())) for uid, instances in all_series.items()
        ]
        studies.append(item)
    return studies[0], studies[1:]


def _by_instance(frames: Iterable[FrameReference]) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    for frame in frames:
        numbers = found.setdefault((frame.sop_class, frame.sop_instance), [])
        if frame.frame is not None and frame.frame not in numbers:
            numbers.append(frame.frame)
    return found


def _instance(sop_class: str, sop_instance: str) -> "Dataset":
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
    return item


def _series(uid: str, keyword: str, instances: "list[Dataset]") -> "Dataset":
    from pydicom.dataset import Dataset

    item = Dataset()
    item.SeriesInstanceUID = uid
    setattr(item, keyword, instances)
    return item
