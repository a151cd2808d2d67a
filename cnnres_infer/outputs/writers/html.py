"""The report that a person looks at, as a self-contained HTML page."""

from cnnres_infer.core.result import Result
from cnnres_infer.outputs.report_page import html_page
from cnnres_infer.readers.dicom.source import DicomSource


def render(result: Result, *, identify: bool = False) -> bytes:
    """Render the page, with attributes of patient and study if `identify` is set."""
    return html_page(result, _patient(result) if identify else None).encode()


def _patient(result: Result) -> dict[str, str]:
    if not isinstance(result.volume.source, DicomSource):
        return {}
    # Needs pydicom, which came with the study.
    from cnnres_infer.readers.dicom.identity import identity

    return identity(result.volume.source)
