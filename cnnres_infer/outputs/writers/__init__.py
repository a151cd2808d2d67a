"""The table of output formats: what each is called, and what renders it.

A writer's module has ``render(result) -> bytes``. All that a case leaves behind
is written together in the order of the table, the mask last: where it exists,
everything is there.
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
        What follows the case's name in the name of the file.
    module
        Has the function ``render``; imported only when it is used.
    """

    suffix: str
    module: str

    def render(self, result: Result) -> bytes:
        """Content of the file."""
        content: bytes = import_module(self.module).render(result)
        return content


WRITERS = {
    "report": Writer("_report.json", "cnnres_infer.outputs.writers.report"),
    "probabilities": Writer("_lesion_prob.nii.gz", "cnnres_infer.outputs.writers.probabilities"),
    "overlay": Writer("_overlay.png", "cnnres_infer.outputs.writers.overlay"),
    "mask": Writer("_lesion_mask.nii.gz", "cnnres_infer.outputs.writers.mask"),
}
