"""The table of output formats.

A writer is a module with ``render(result) -> bytes``. The outputs of a case are
written in the order of the table, with the mask last: if it exists, so do all
others.
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
    """

    suffix: str
    module: str

    def render(self, result: Result) -> bytes:
        """Render a result as the content of a file."""
        content: bytes = import_module(self.module).render(result)
        return content


WRITERS = {
    "report": Writer("_report.json", "cnnres_infer.outputs.writers.report"),
    "probabilities": Writer("_lesion_prob.nii.gz", "cnnres_infer.outputs.writers.probabilities"),
    "overlay": Writer("_overlay.png", "cnnres_infer.outputs.writers.overlay"),
    "mask": Writer("_lesion_mask.nii.gz", "cnnres_infer.outputs.writers.mask"),
}
