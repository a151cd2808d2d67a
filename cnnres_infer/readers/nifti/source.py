"""What a volume keeps of its NIfTI header, so that outputs repeat it bit for bit."""

from dataclasses import dataclass

from cnnres_infer.readers.nifti.header import Fields


@dataclass(frozen=True, eq=False)
class NiftiSource:
    """The source of a volume that was read from NIfTI.

    Attributes
    ----------
    transforms
        `cnnres_infer.readers.nifti.header.TRANSFORM_FIELDS` as they stood in the
        file.
    """

    transforms: Fields
