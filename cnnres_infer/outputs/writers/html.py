"""The report that a person looks at, as a self-contained HTML page."""

from cnnres_infer.core.result import Result
from cnnres_infer.outputs.report_page import html_page
from cnnres_infer.readers.dicom.source import DicomSource

# What identifies a patient and study, by its name on the page.
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


def render(result: Result, *, identify: bool = False) -> bytes:
    """Render the page, with attributes of patient and study if `identify` is set."""
    return html_page(result, _patient(result) if identify else None).encode()


def _patient(result: Result) -> dict[str, str]:
    source = result.volume.source
    header = source.header if isinstance(source, DicomSource) else {}
    return {name: header[keyword] for name, keyword in _ATTRIBUTES.items() if keyword in header}
