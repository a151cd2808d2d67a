"""What all DICOM outputs have in common: patient, study, equipment, times; and their bytes."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cnnres_infer import __version__
from cnnres_infer.core.text import printable
from cnnres_infer.outputs.dicom.concepts import ACQUISITION, PROCESSING, Concept
from cnnres_infer.outputs.dicom.geometry import Planes
from cnnres_infer.outputs.dicom.origin import Origin, fingerprint
from cnnres_infer.readers.dicom.headers import quiet

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PRODUCT = "cnnres-infer"
_NOTE = "RESEARCH USE ONLY"
_CLASSIC_MR = "1.2.840.10008.5.1.4.1.1.4"
_UTF_8 = "ISO_IR 192"
_LOSSY = "01"
# Of the patient and the study: what objects must have, if empty, and what they may have.
_MANDATORY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_OPTIONAL = ("IssuerOfPatientID", "StudyDescription")
_SEXES = ("M", "F", "O")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")
# Of a series whose images have no date at all, but whose outputs must have one.
_NO_DATE, _NO_TIME = "19000101", "000000"
# The longest text of most attributes (LO).
_LONGEST = 64
# How far the number of a series is moved if the study has it.
_STEP = 10


@dataclass(frozen=True)
class Product:
    """A kind of DICOM output.

    Attributes
    ----------
    name
        What its UIDs are told apart by.
    number
        Number of its series, if the study has none of that number.
    title
        What it is, for the description of its series.
    """

    name: str
    number: int
    title: str


def description(text: str) -> str:
    """A description of at most 64 characters that says what it must not be used for."""
    room = _LONGEST - len(_NOTE) - 2
    return f"{printable(text)[:room]}, {_NOTE}"


def identity(origin: Origin, product: Product, *content: object) -> dict[str, Any]:
    """What highdicom's constructors take: UIDs, series, equipment and times.

    Parameters
    ----------
    origin
        What the object is derived from.
    product
        What it is.
    content
        What it holds beyond the mask: the UID of the object depends on it as well.
    """
    made = origin.result.provenance
    series, number = _series(origin, product)
    date, time = moment(origin)
    return {
        "series_instance_uid": series,
        "series_number": number,
        "sop_instance_uid": origin.uid(product.name, fingerprint(number, *content)),
        "instance_number": 1,
        "manufacturer": PRODUCT,
        "manufacturer_model_name": made.model[:_LONGEST],
        "software_versions": list(_versions(origin)),
        "device_serial_number": made.bundle_sha256[:_LONGEST],
        "series_description": description(product.title),
        "specific_character_set": _UTF_8,
        "content_date": date,
        "content_time": time,
        "series_date": date,
        "series_time": time,
    }


def stand_in(origin: Origin, planes: Planes) -> "Dataset":
    """A plain MR image of nobody in the place of the source's, as much as highdicom needs."""
    from pydicom.dataset import Dataset

    source, header = origin.source, origin.source.header
    image = Dataset()
    image.SOPClassUID = _CLASSIC_MR
    image.SOPInstanceUID = source.slices[0][0].sop_instance
    image.StudyInstanceUID, image.SeriesInstanceUID = source.study, source.series
    image.Modality, image.SpecificCharacterSet = "MR", _UTF_8
    for keyword in _MANDATORY:
        setattr(image, keyword, "")
    if header.get("LossyImageCompression") == _LOSSY:
        for keyword in (each for each in header if each.startswith("LossyImageCompression")):
            setattr(image, keyword, header[keyword])
    image.FrameOfReferenceUID = source.frame_of_reference
    image.PositionReferenceIndicator = header.get("PositionReferenceIndicator", "")
    image.Columns, image.Rows = origin.result.mask.grid.shape[:2]
    image.ImagePositionPatient = list(planes.positions[0])
    image.ImageOrientationPatient = list(planes.orientation)
    image.PixelSpacing, image.SliceThickness = list(planes.spacing[:2]), planes.spacing[2]
    return image


def moment(origin: Origin) -> tuple[str, str]:
    """Date and time of the acquisition, or what comes nearest: never those of the computation."""
    header = origin.source.header
    whole = header.get("AcquisitionDateTime", "")
    for date, time in (
        (whole[:8], whole[8:21]),
        *(
            (header.get(f"{each}Date", ""), header.get(f"{each}Time", ""))
            for each in ("Acquisition", "Content", "Series", "Study")
        ),
    ):
        if _date(date):
            return _date(date), _time(time) or _NO_TIME
    return _NO_DATE, _NO_TIME


def finish(dataset: "Dataset", origin: Origin) -> bytes:
    """Say whose an object is and what made it, and encode it.

    What highdicom puts in of the moment and of itself is removed.
    """
    with quiet():
        for keyword, text in _patient_and_study(origin.source.header).items():
            setattr(dataset, keyword, text)
        for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
            if keyword in dataset:
                del dataset[keyword]
        dataset.ContributingEquipmentSequence = [*_scanner(origin), _equipment(origin)]
        content = io.BytesIO()
        dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def _patient_and_study(header: Mapping[str, str]) -> dict[str, str]:
    """Attributes of the patient and the study by keyword, without values that are not allowed.

    Empty if the source lacks what every object must have.
    """
    found = {each: header.get(each, "") for each in _MANDATORY}
    found |= {each: header[each] for each in _OPTIONAL if header.get(each)}
    found |= {each: _date(found[each]) for each in ("PatientBirthDate", "StudyDate")}
    sex = found["PatientSex"].upper()
    return {
        **found,
        "PatientSex": sex if sex in _SEXES else "",
        "StudyTime": _time(found["StudyTime"]),
    }


def _equipment(origin: Origin) -> "Dataset":
    made = origin.result.provenance
    item = _purpose(PROCESSING)
    item.Manufacturer, item.ManufacturerModelName = PRODUCT, made.model[:_LONGEST]
    item.SoftwareVersions = list(_versions(origin))
    item.ContributionDescription = f"Segmentation by bundle {made.bundle_sha256}"
    return item


def _scanner(origin: Origin) -> "list[Dataset]":
    """The scanner, without the institution, station or serial number that it belongs to."""
    header = origin.source.header
    if not header.get("Manufacturer"):
        return []
    item = _purpose(ACQUISITION)
    for keyword in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions"):
        if header.get(keyword):
            setattr(item, keyword, header[keyword])
    return [item]


def _purpose(concept: Concept) -> "Dataset":
    from pydicom.dataset import Dataset

    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [concept.item()]
    return item


def _versions(origin: Origin) -> tuple[str, str]:
    made = origin.result.provenance
    return f"{PRODUCT} {__version__}"[:_LONGEST], f"{made.model} {made.version}"[:_LONGEST]


def _series(origin: Origin, product: Product) -> tuple[str, int]:
    """UID and number of a product's series; no other series of the study has that number."""
    number = product.number
    while True:
        uid = origin.uid(product.name, "series", str(number))
        # An output of an earlier run is the same series, so it keeps its number.
        if not {each for each, taken in origin.source.others if taken == number} - {uid}:
            return uid, number
        number += _STEP


def _date(text: str) -> str:
    """A date as DICOM writes it; empty if it is none."""
    if len(text) != len(_NO_DATE) or not text.isdigit():
        return ""
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return ""
    return text


def _time(text: str) -> str:
    """The time that a text starts with, as DICOM writes it; empty if it is none."""
    found = _TIME.match(text)
    return found[0] if found else ""
