"""The table of output formats.

A writer is a module with ``render(result) -> bytes``; one that can name the patient
takes ``identify`` as well. The mask of a case is written last: if it exists, so do
all other outputs.
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
    """

    suffix: str
    module: str
    default: bool = True
    identifies: bool = False

    def render(self, result: Result, *, identify: bool = False) -> bytes:
        """Render a result as the content of a file, with the patient's attributes if asked to."""
        options = {"identify": identify} if self.identifies else {}
        content: bytes = import_module(self.module).render(result, **options)
        return content


WRITERS = {
    "report": Writer("_report.json", "cnnres_infer.outputs.writers.report"),
    "probabilities": Writer(
        "_lesion_prob.nii.gz", "cnnres_infer.outputs.writers.probabilities", default=False
    ),
    "overlay": Writer("_overlay.png", "cnnres_infer.outputs.writers.overlay"),
    "html": Writer(
        "_report.html", "cnnres_infer.outputs.writers.html", default=False, identifies=True
    ),
    "mask": Writer("_lesion_mask.nii.gz", "cnnres_infer.outputs.writers.mask"),
}
MASK = "mask"
DEFAULT_FORMATS = tuple(name for name, writer in WRITERS.items() if writer.default)
