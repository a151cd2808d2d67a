"""The part of a NIfTI header that outputs reproduce bit for bit."""

from dataclasses import dataclass
from typing import ClassVar

from cnnres_infer.readers.nifti.header import Fields


@dataclass(frozen=True, eq=False)
class NiftiSource:
    """`Volume.source` of a volume that was read from NIfTI.

    Attributes
    ----------
    reader
        Its name in the table of readers.
    transforms
        `cnnres_infer.readers.nifti.header.TRANSFORM_FIELDS` of the input,
        unchanged.
    """

    reader: ClassVar[str] = "nifti"
    transforms: Fields
