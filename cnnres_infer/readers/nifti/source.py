"""The part of a NIfTI header that outputs reproduce bit for bit."""

from dataclasses import dataclass

from cnnres_infer.readers.nifti.header import Fields


@dataclass(frozen=True, eq=False)
class NiftiSource:
    """`Volume.source` of a volume that was read from NIfTI.

    Attributes
    ----------
    transforms
        `cnnres_infer.readers.nifti.header.TRANSFORM_FIELDS` of the input,
        unchanged.
    """

    transforms: Fields
