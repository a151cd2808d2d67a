"""What DICOM outputs need of the images that a volume was read from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# What outputs repeat of the patient and the study, and say of the scanner and the acquisition.
HEADER = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "InstitutionName", "PositionReferenceIndicator"),
    *("AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime"),
    *("ContentDate", "ContentTime", "SeriesDate", "SeriesTime"),
    *("Manufacturer", "ManufacturerModelName", "SoftwareVersions"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)


@dataclass(frozen=True)
class FrameReference:
    """A frame that a slice was read from.

    Attributes
    ----------
    sop_class, sop_instance
        UIDs of its file.
    frame
        Its number in the file, from 1; None in a file of one frame.
    tile
        Its index in a mosaic, from 0; None without.
    """

    sop_class: str
    sop_instance: str
    frame: int | None
    tile: int | None


@dataclass(frozen=True, eq=False)
class DicomSource:
    """`Volume.source` of a volume that was read from DICOM.

    Attributes
    ----------
    reader
        Its name in the table of readers.
    path
        The study: a folder, an archive or a file.
    study, series, frame_of_reference
        UIDs; empty where the files have none.
    slices
        The frames of each slice, in the order of the third voxel axis.
    label
        Number and description of the series.
    header
        Text of the attributes in `HEADER` that its first image has, whatever its
        character set; several values are separated by backslashes.
    others
        UIDs and numbers of all series of the study that have a number.
    """

    reader: ClassVar[str] = "dicom"
    path: Path
    study: str
    series: str
    frame_of_reference: str
    slices: tuple[tuple[FrameReference, ...], ...]
    label: str
    header: Mapping[str, str] = field(repr=False)
    others: tuple[tuple[str, int], ...]


def header_of(dataset: "Dataset") -> dict[str, str]:
    """Text of the attributes in `HEADER`, without those that are absent, empty or malformed."""
    return {keyword: text for keyword in HEADER if (text := _text(dataset, keyword))}


def _text(dataset: "Dataset", keyword: str) -> str:
    from pydicom.multival import MultiValue

    try:
        value = dataset.get(keyword)
        several = value if isinstance(value, MultiValue) else [value]
        return "\\".join("" if each is None else str(each).strip() for each in several)
    except Exception:  # pydicom parses values when they are asked for
        return ""
