"""The table of output formats.

A writer is a module with ``render(result) -> bytes``; one that can name the patient
takes ``identify`` as well. If there may be nothing to write, it also has
``omission(result) -> str``, which says why, and is empty otherwise. The mask of a
case is written last: if it exists, so do all other outputs.
"""

from dataclasses import dataclass
from importlib import import_module

from cnnres_infer.core.result import Result


@dataclass(frozen=True)
class Writer:
    """An output format.

    Attributes
    ----------
    suffix
        End of the file name, after the name of the case.
    module
        Name of the module with ``render``; imported only when it is used.
    default
        Whether it is written unless formats are named.
    identifies
        Whether it can name the patient; it does so only when asked to.
    reader
        Name of the only reader from whose volumes it can be made; None for any.
    library
        What it needs beyond the base installation, of the extra ``[dicom]``.
    """

    suffix: str
    module: str
    default: bool = True
    identifies: bool = False
    reader: str | None = None
    library: str | None = None

    def render(self, result: Result, *, identify: bool = False) -> bytes:
        """Render a result as the content of a file, with the patient's attributes if asked to."""
        options = {"identify": identify} if self.identifies else {}
        content: bytes = import_module(self.module).render(result, **options)
        return content

    def omission(self, result: Result) -> str:
        """Why there is nothing to write of a result; empty if there is."""
        reason = getattr(import_module(self.module), "omission", None)
        return "" if reason is None else str(reason(result))


def _dicom(suffix: str, module: str) -> Writer:
    name = f"cnnres_infer.outputs.writers.{module}"
    return Writer(suffix, name, default=False, reader="dicom", library="highdicom")


WRITERS = {
    "report": Writer("_report.json", "cnnres_infer.outputs.writers.report"),
    "probabilities": Writer(
        "_lesion_prob.nii.gz", "cnnres_infer.outputs.writers.probabilities", default=False
    ),
    "brain": Writer("_cnnres_brain.nii.gz", "cnnres_infer.outputs.writers.brain", default=False),
    "overlay": Writer("_overlay.png", "cnnres_infer.outputs.writers.overlay"),
    "html": Writer(
        "_report.html", "cnnres_infer.outputs.writers.html", default=False, identifies=True
    ),
    "dicom-seg": _dicom("_lesion_seg.dcm", "dicom_seg"),
    "dicom-labelmap": _dicom("_lesion_labelmap.dcm", "dicom_labelmap"),
    "dicom-sr": _dicom("_report_sr.dcm", "dicom_sr"),
    "dicom-sc": _dicom("_overlay_sc.dcm", "dicom_sc"),
    "mask": Writer("_lesion_mask.nii.gz", "cnnres_infer.outputs.writers.mask"),
}
MASK = "mask"
DEFAULT_FORMATS = tuple(name for name, writer in WRITERS.items() if writer.default)
# Those that can be made of any volume, wherever it comes from.
UNIVERSAL_FORMATS = tuple(name for name, writer in WRITERS.items() if writer.reader is None)
