"""The stable codes of what is refused (``E-``) and of what is warned about (``W-``).

A code never changes its meaning. docs/errors.md gives cause and remedy of each.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class _Code(StrEnum):
    """A code with what it stands for.

    Attributes
    ----------
    meaning
        What it stands for, in a few words.
    """

    meaning: str

    def __new__(cls, code: str, meaning: str) -> Self:
        self = str.__new__(cls, code)
        self._value_ = code
        self.meaning = meaning
        return self


class ErrorCode(_Code):
    """Why something was refused or failed."""

    INTERNAL = "E-INTERNAL", "a defect of this program"
    USAGE = "E-USAGE", "options or arguments that contradict each other"
    FILE_NAME = "E-FILE-NAME", "not named .nii or .nii.gz"
    FILE_MISSING = "E-FILE-MISSING", "there is no such file"
    FILE_KIND = "E-FILE-KIND", "a folder or device, not a file"
    FILE_ACCESS = "E-FILE-ACCESS", "the file cannot be read"
    FILE_EMPTY = "E-FILE-EMPTY", "the file holds nothing"
    NIFTI_GZIP = "E-NIFTI-GZIP", "compressed or not, against its name; or a broken gzip header"
    NIFTI_DEFLATE = "E-NIFTI-DEFLATE", "the compressed data are damaged"
    NIFTI_CRC = "E-NIFTI-CRC", "the voxels differ from what was compressed"
    NIFTI_LENGTH = "E-NIFTI-LENGTH", "the length differs from what was compressed"
    NIFTI_TRUNCATED = "E-NIFTI-TRUNCATED", "the file ends too early"
    NIFTI_TRAILING = "E-NIFTI-TRAILING", "something follows the compressed data"
    NIFTI_EXCESS = "E-NIFTI-EXCESS", "more than the image that the header describes"
    NIFTI_HEADER = "E-NIFTI-HEADER", "no NIfTI header"
    NIFTI_PAIR = "E-NIFTI-PAIR", "a pair of files, .hdr and .img"
    NIFTI_NDIM = "E-NIFTI-NDIM", "a number of dimensions that cannot be"
    NIFTI_DIM = "E-NIFTI-DIM", "a dimension of zero or less"
    NIFTI_FLAT = "E-NIFTI-FLAT", "a two-dimensional image"
    NIFTI_SERIES = "E-NIFTI-SERIES", "several volumes, and nothing says which"
    NIFTI_BVAL = "E-NIFTI-BVAL", "b-values that do not choose a volume"
    NIFTI_DATATYPE = "E-NIFTI-DATATYPE", "voxels that are no real numbers"
    NIFTI_BITPIX = "E-NIFTI-BITPIX", "a size of voxels that contradicts their type"
    NIFTI_OFFSET = "E-NIFTI-OFFSET", "a place of the voxels that cannot be"
    NIFTI_EXTENSION = "E-NIFTI-EXTENSION", "a header extension of impossible size"
    NIFTI_SCALE = "E-NIFTI-SCALE", "a shift of the values that is no number"
    NIFTI_UNITS = "E-NIFTI-UNITS", "lengths in another unit than mm"
    NIFTI_PIXDIM = "E-NIFTI-PIXDIM", "a voxel size of zero, or none"
    NIFTI_CODE = "E-NIFTI-CODE", "a transform code that is not defined"
    NIFTI_PLACE = "E-NIFTI-PLACE", "nothing says where the volume lies"
    NIFTI_SFORM = "E-NIFTI-SFORM", "an sform that is no transform"
    NIFTI_QFORM = "E-NIFTI-QFORM", "a qform that is no transform"
    NIFTI_HANDEDNESS = "E-NIFTI-HANDEDNESS", "sform and qform that swap left and right"
    LIMIT_VOXELS = "E-LIMIT-VOXELS", "more voxels than `max_voxels`"
    LIMIT_BYTES = "E-LIMIT-BYTES", "more bytes than `max_bytes`"
    LIMIT_MEMORY = "E-LIMIT-MEMORY", "more memory than `max_memory`"
    LIMIT_TIME = "E-LIMIT-TIME", "more time than `timeout`"
    ARRAY = "E-ARRAY", "an array or image in memory that is no 3-D volume of numbers"
    VOXELS_EMPTY = "E-VOXELS-EMPTY", "all voxels are the same or not finite"
    VOXELS_RANGE = "E-VOXELS-RANGE", "values so large or small that they are no intensities"
    GRID_AFFINE = "E-GRID-AFFINE", "an affine that is no transform"
    GRID_SPACING = "E-GRID-SPACING", "a distance between voxels that no scanner makes"
    GRID_OVERLAP = "E-GRID-OVERLAP", "volumes that do not overlap in space"
    GRID_MASK = "E-GRID-MASK", "a brain mask on another grid"
    BRAIN_NONE = "E-BRAIN-NONE", "no brain in the volume"
    BUNDLE_MANIFEST = (
        "E-BUNDLE-MANIFEST",
        "a model.json that is missing, absurd or of another format",
    )
    BUNDLE_FILE = "E-BUNDLE-FILE", "a file of the bundle that is missing, unlisted or too large"
    BUNDLE_HASH = "E-BUNDLE-HASH", "a file of the bundle that was altered"
    BUNDLE_MODEL = "E-BUNDLE-MODEL", "an ONNX file that is truncated or reads other files"
    BUNDLE_SIGNATURE = (
        "E-BUNDLE-SIGNATURE",
        "a bundle that is not signed by the key that is trusted",
    )
    BUNDLE = "E-BUNDLE", "a checkpoint or bundle that cannot be used"
    REFERENCE = "E-REFERENCE", "stored outputs that are damaged or belong to something else"
    OUTPUT_EXISTS = "E-OUTPUT-EXISTS", "an output that already exists"
    OUTPUT_WRITE = "E-OUTPUT-WRITE", "an output that cannot be written"
    VERIFY = "E-VERIFY", "an engine that disagrees with the network"
    BACKEND = "E-BACKEND", "a backend that cannot be used"
    ENGINE_RUN = "E-ENGINE-RUN", "a backend that failed while it ran"
    ENGINE_OUTPUT = "E-ENGINE-OUTPUT", "a backend whose output is no probability"


class WarningCode(_Code):
    """What a reader of a mask should know."""

    NIFTI_VOLUME = "W-NIFTI-VOLUME", "one volume, or the mean of some, was chosen by the b-values"
    NIFTI_PIXDIM = "W-NIFTI-PIXDIM", "a voxel size of zero or less that is not needed"
    NIFTI_SPACING = "W-NIFTI-SPACING", "voxel sizes that differ from those of the sform"
    NIFTI_QFORM = "W-NIFTI-QFORM", "a qform that is no transform, beside a sound sform"
    NIFTI_TRANSFORMS = "W-NIFTI-TRANSFORMS", "sform and qform that differ"
    NIFTI_SHEAR = "W-NIFTI-SHEAR", "axes that are not perpendicular"
    NIFTI_SCALE = "W-NIFTI-SCALE", "a scaling that is no number and was left out"
    VOXELS_LOST = "W-VOXELS-LOST", "some voxels are not finite"
    GRID_RESAMPLED = "W-GRID-RESAMPLED", "a second volume was resampled to the grid of the first"
    GRID_UNCOVERED = "W-GRID-UNCOVERED", "brain that the FLAIR does not cover"
    GRID_OUTSIDE = "W-GRID-OUTSIDE", "brain outside the network's field of view"
    INPUT_ADC = "W-INPUT-ADC", "an image that looks like an ADC map"
    INPUT_SPACING = "W-INPUT-SPACING", "a spacing outside the range of the training data"
    INPUT_INTENSITY = "W-INPUT-INTENSITY", "intensities outside the range of the training data"
    BRAIN_SIZE = "W-BRAIN-SIZE", "a brain of implausible size"
    BACKEND_PASSED = "W-BACKEND-PASSED", "a backend that should run here was skipped"
    ENGINE = "W-ENGINE", "something that the engine had to do otherwise than usual"
    CHECK_UNSAVED = "W-CHECK-UNSAVED", "the self-check of an engine could not be kept"
    MASK_EMPTY = "W-MASK-EMPTY", "no lesion was found"
    MASK_LARGE = "W-MASK-LARGE", "lesion over half the brain"


@dataclass(frozen=True)
class Notice:
    """A warning: something that a reader of the mask should know.

    Attributes
    ----------
    code
        Which warning.
    text
        What is odd, and where.
    """

    code: WarningCode
    text: str

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"
