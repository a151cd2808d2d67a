"""Attributes that identify a patient and study, read only where they are asked for."""

from cnnres_infer.errors import VolumeError
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.readers.dicom.files import study_files
from cnnres_infer.readers.dicom.headers import parse, quiet, require_pydicom
from cnnres_infer.readers.dicom.source import DicomSource
from cnnres_infer.readers.dicom.views import View

_ATTRIBUTES = {
    "patient's name": "PatientName",
    "patient ID": "PatientID",
    "date of birth": "PatientBirthDate",
    "sex": "PatientSex",
    "study date": "StudyDate",
    "study time": "StudyTime",
    "study": "StudyDescription",
    "accession number": "AccessionNumber",
    "institution": "InstitutionName",
}


def identity(source: DicomSource, limits: Limits = DEFAULT_LIMITS) -> dict[str, str]:
    """Attributes of the patient and study that a volume was read from, without those absent.

    Parameters
    ----------
    source
        Where the volume was read from; the study must still be there.
    limits
        What the study may cost.

    Raises
    ------
    VolumeError
        If the image is not there any more.
    """
    wanted = source.slices[0][0].sop_instance
    require_pydicom()
    with study_files(source.path, limits) as files, quiet():
        for file in files:
            try:
                view = View(parse(file, limits))
            except VolumeError:
                continue
            if view.text("SOPInstanceUID") == wanted:
                found = {label: view.text(keyword) for label, keyword in _ATTRIBUTES.items()}
                return {label: text for label, text in found.items() if text}
    raise VolumeError(
        f"{source.path}: the images were removed before the patient could be looked up; leave out "
        "`identify`, or keep the study until the outputs are written"
    )
