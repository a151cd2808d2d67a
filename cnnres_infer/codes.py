"""The stable codes of errors (``E-``) and warnings (``W-``).

A code never changes its meaning. docs/errors.md gives the cause and the remedy
of each.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class _Code(StrEnum):
    """A code with its meaning.

    Attributes
    ----------
    meaning
        What the code stands for, in a few words.
    """

    meaning: str

    def __new__(cls, code: str, meaning: str) -> Self:
        self = str.__new__(cls, code)
        self._value_ = code
        self.meaning = meaning
        return self


class ErrorCode(_Code):
    """Why an input was rejected or an operation failed."""

    INTERNAL = "E-INTERNAL", "a bug in this package"
    SYSTEM = "E-SYSTEM", "the operating system does not provide memory, threads or files"
    USAGE = "E-USAGE", "options or arguments that contradict each other"
    FILE_NAME = "E-FILE-NAME", "the name does not end in .nii or .nii.gz"
    FILE_MISSING = "E-FILE-MISSING", "the file does not exist"
    FILE_KIND = "E-FILE-KIND", "a folder, device or pipe instead of a file"
    FILE_ACCESS = "E-FILE-ACCESS", "the file cannot be read"
    FILE_EMPTY = "E-FILE-EMPTY", "the file is empty"
    NIFTI_GZIP = "E-NIFTI-GZIP", "compression that contradicts the name, or a bad gzip header"
    NIFTI_DEFLATE = "E-NIFTI-DEFLATE", "damaged compressed data"
    NIFTI_CRC = "E-NIFTI-CRC", "decompressed data that do not match their checksum"
    NIFTI_LENGTH = "E-NIFTI-LENGTH", "decompressed data of the wrong length"
    NIFTI_TRUNCATED = "E-NIFTI-TRUNCATED", "a truncated file"
    NIFTI_TRAILING = "E-NIFTI-TRAILING", "extra bytes after the compressed data"
    NIFTI_EXCESS = "E-NIFTI-EXCESS", "more data than the header describes"
    NIFTI_HEADER = "E-NIFTI-HEADER", "no valid NIfTI header"
    NIFTI_PAIR = "E-NIFTI-PAIR", "a pair of files, .hdr and .img"
    NIFTI_NDIM = "E-NIFTI-NDIM", "an invalid or unsupported number of dimensions"
    NIFTI_DIM = "E-NIFTI-DIM", "a dimension that is not positive"
    NIFTI_FLAT = "E-NIFTI-FLAT", "an image of fewer than three dimensions"
    NIFTI_SERIES = "E-NIFTI-SERIES", "several volumes, and no b-values to choose one"
    NIFTI_BVAL = "E-NIFTI-BVAL", "b-values that are invalid or select no volume"
    NIFTI_DATATYPE = "E-NIFTI-DATATYPE", "voxels that are not real numbers"
    NIFTI_BITPIX = "E-NIFTI-BITPIX", "a voxel size in bits that contradicts the data type"
    NIFTI_OFFSET = "E-NIFTI-OFFSET", "an impossible position of the voxel data in the file"
    NIFTI_EXTENSION = "E-NIFTI-EXTENSION", "a header extension of impossible size"
    NIFTI_SCALE = "E-NIFTI-SCALE", "an intercept that is not finite"
    NIFTI_UNITS = "E-NIFTI-UNITS", "lengths in units other than mm"
    NIFTI_PIXDIM = "E-NIFTI-PIXDIM", "a voxel size that is zero or not finite"
    NIFTI_CODE = "E-NIFTI-CODE", "an undefined sform or qform code"
    NIFTI_PLACE = "E-NIFTI-PLACE", "no sform or qform that places the volume in space"
    NIFTI_SFORM = "E-NIFTI-SFORM", "an invalid sform"
    NIFTI_QFORM = "E-NIFTI-QFORM", "an invalid qform"
    NIFTI_HANDEDNESS = "E-NIFTI-HANDEDNESS", "an sform and a qform that mirror each other"
    DICOM_EXTRA = "E-DICOM-EXTRA", "a DICOM study without what it takes to read it"
    DICOM_NONE = "E-DICOM-NONE", "no images in a study"
    DICOM_ARCHIVE = "E-DICOM-ARCHIVE", "a zip archive that is damaged, encrypted or unsafe"
    DICOM_FILE = "E-DICOM-FILE", "a file that is not a valid DICOM image"
    DICOM_STUDY = "E-DICOM-STUDY", "images of several patients or frames of reference"
    DICOM_SERIES = "E-DICOM-SERIES", "no suitable series, or several"
    DICOM_BVALUE = "E-DICOM-BVALUE", "no images at a suitable b-value"
    DICOM_SLICES = "E-DICOM-SLICES", "slices that do not make a volume"
    DICOM_PIXELS = "E-DICOM-PIXELS", "pixels that cannot be decoded"
    LIMIT_VOXELS = "E-LIMIT-VOXELS", "more voxels than `max_voxels`"
    LIMIT_BYTES = "E-LIMIT-BYTES", "more bytes than `max_bytes`"
    LIMIT_MEMORY = "E-LIMIT-MEMORY", "more memory than `max_memory`"
    LIMIT_TIME = "E-LIMIT-TIME", "more time than `timeout`"
    ARRAY = "E-ARRAY", "an array or image that is not a 3-D volume of real numbers"
    VOXELS_EMPTY = "E-VOXELS-EMPTY", "all voxels are equal, or none is finite"
    VOXELS_RANGE = "E-VOXELS-RANGE", "values too large or too small for intensities"
    VOXELS_LABELS = "E-VOXELS-LABELS", "a mask or label map instead of an image"
    VOXELS_WRAPPED = "E-VOXELS-WRAPPED", "unsigned integers that were stored as signed ones"
    VOXELS_IMAGE = "E-VOXELS-IMAGE", "an image instead of a brain mask"
    GRID_AFFINE = "E-GRID-AFFINE", "an invalid affine"
    GRID_SPACING = "E-GRID-SPACING", "an implausible voxel size"
    GRID_OVERLAP = "E-GRID-OVERLAP", "volumes that do not overlap in space"
    GRID_MASK = "E-GRID-MASK", "a brain mask on a different grid"
    SIDECAR_KIND = "E-SIDECAR-KIND", "an image that is of another kind by what lies beside it"
    INPUT_DIFFUSION = "E-INPUT-DIFFUSION", "the DWI itself, given as ADC map or b0"
    INPUT_FLAIR = "E-INPUT-FLAIR", "the DWI itself, given as FLAIR"
    BRAIN_NONE = "E-BRAIN-NONE", "no brain found in the volume"
    BUNDLE_MANIFEST = (
        "E-BUNDLE-MANIFEST",
        "a model.json that is missing, invalid or of another format",
    )
    BUNDLE_FILE = "E-BUNDLE-FILE", "a file of the bundle that is missing, unlisted or too large"
    BUNDLE_HASH = "E-BUNDLE-HASH", "a file of the bundle that was modified"
    BUNDLE_MODEL = "E-BUNDLE-MODEL", "an ONNX file that is truncated or refers to other files"
    BUNDLE_SIGNATURE = (
        "E-BUNDLE-SIGNATURE",
        "a bundle that is not signed with the trusted key",
    )
    BUNDLE = "E-BUNDLE", "a checkpoint or bundle that cannot be used"
    REFERENCE = (
        "E-REFERENCE",
        "stored outputs that are damaged or belong to another volume or model",
    )
    OUTPUT_EXISTS = "E-OUTPUT-EXISTS", "an output that already exists"
    OUTPUT_WRITE = "E-OUTPUT-WRITE", "an output that cannot be written"
    CANCELLED = "E-CANCELLED", "work that its caller has cancelled"
    PROCESS_LOST = "E-PROCESS-LOST", "a case that ended every process which segmented it"
    VERIFY = "E-VERIFY", "an engine that disagrees with the network"
    BACKEND = "E-BACKEND", "a backend that cannot be used"
    ENGINE_RUN = "E-ENGINE-RUN", "a backend that failed while running"
    ENGINE_OUTPUT = "E-ENGINE-OUTPUT", "a backend whose output is not a probability map"
    SERVICE_EXTRA = "E-SERVICE-EXTRA", "a listener without what it takes to speak DICOM"
    SERVICE_PORT = "E-SERVICE-PORT", "an address or port that cannot be listened on"
    SERVICE_ENDED = "E-SERVICE-ENDED", "a case during which the process ended again and again"


class WarningCode(_Code):
    """What anyone who uses a mask should know about it."""

    NIFTI_VOLUME = "W-NIFTI-VOLUME", "one volume, or the mean of some, was selected by b-value"
    NIFTI_PIXDIM = "W-NIFTI-PIXDIM", "a voxel size that is not positive but not needed"
    NIFTI_SPACING = "W-NIFTI-SPACING", "voxel sizes that differ from those of the sform"
    NIFTI_QFORM = "W-NIFTI-QFORM", "an invalid qform next to a valid sform"
    NIFTI_TRANSFORMS = "W-NIFTI-TRANSFORMS", "an sform and a qform that differ"
    NIFTI_SHEAR = "W-NIFTI-SHEAR", "voxel axes that are not perpendicular"
    NIFTI_SCALE = "W-NIFTI-SCALE", "a scale factor that is not finite and was ignored"
    DICOM_SERIES = "W-DICOM-SERIES", "which images of a study were used"
    DICOM_LEFT_OUT = "W-DICOM-LEFT-OUT", "images of a study that were not used"
    VOXELS_LOST = "W-VOXELS-LOST", "some voxels are not finite"
    GRID_RESAMPLED = "W-GRID-RESAMPLED", "FLAIR, ADC or b0 was resampled to the grid of the DWI"
    GRID_UNCOVERED = "W-GRID-UNCOVERED", "part of the brain is not covered by FLAIR, ADC or b0"
    GRID_OUTSIDE = "W-GRID-OUTSIDE", "part of the brain is outside the network's field of view"
    INPUT_ADC = "W-INPUT-ADC", "an image that looks like an ADC map"
    INPUT_DIFFUSION = "W-INPUT-DIFFUSION", "an ADC map or b0 that was not used, or not to the full"
    INPUT_BVALUE = "W-INPUT-BVALUE", "a b-value outside the clinical range"
    SIDECAR = "W-SIDECAR", "a .bval or .json beside the image that is damaged or contradictory"
    INPUT_CONTRAST = "W-INPUT-CONTRAST", "an image that looks like neither a DWI nor a FLAIR"
    INPUT_SPACING = "W-INPUT-SPACING", "a spacing outside the range of the training data"
    INPUT_INTENSITY = "W-INPUT-INTENSITY", "intensities outside the range of the training data"
    BRAIN_SIZE = "W-BRAIN-SIZE", "a brain of implausible size"
    BACKEND_PASSED = "W-BACKEND-PASSED", "a backend that should run on this machine was skipped"
    ENGINE = "W-ENGINE", "the engine had to deviate from its usual configuration"
    CHECK_UNSAVED = "W-CHECK-UNSAVED", "the result of an engine's self-check could not be saved"
    LESION_REJECTED = (
        "W-LESION-REJECTED",
        "lesions were taken out since few voxels restrict diffusion",
    )
    MASK_EMPTY = "W-MASK-EMPTY", "no lesion was found"
    MASK_LARGE = "W-MASK-LARGE", "lesions in more than half of the brain"


@dataclass(frozen=True)
class Notice:
    """A warning about an input, an engine or a mask.

    Attributes
    ----------
    code
        The kind of warning.
    text
        What is unusual, and where.
    """

    code: WarningCode
    text: str

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"
