"""The stable codes of what is refused (``E-``) and of what is warned about (``W-``).

A code never changes its meaning. docs/errors.md gives cause and remedy of each.
"""

from dataclasses import dataclass

ERRORS = {
    "E-INTERNAL": "a defect of this program",
    "E-USAGE": "options or arguments that contradict each other",
    "E-FILE-NAME": "not named .nii or .nii.gz",
    "E-FILE-MISSING": "there is no such file",
    "E-FILE-KIND": "a folder or device, not a file",
    "E-FILE-ACCESS": "the file cannot be read",
    "E-FILE-EMPTY": "the file holds nothing",
    "E-NIFTI-GZIP": "compressed or not, against its name; or a broken gzip header",
    "E-NIFTI-DEFLATE": "the compressed data are damaged",
    "E-NIFTI-CRC": "the voxels differ from what was compressed",
    "E-NIFTI-LENGTH": "the length differs from what was compressed",
    "E-NIFTI-TRUNCATED": "the file ends too early",
    "E-NIFTI-TRAILING": "something follows the compressed data",
    "E-NIFTI-EXCESS": "more than the image that the header describes",
    "E-NIFTI-HEADER": "no NIfTI header",
    "E-NIFTI-PAIR": "a pair of files, .hdr and .img",
    "E-NIFTI-NDIM": "a number of dimensions that cannot be",
    "E-NIFTI-DIM": "a dimension of zero or less",
    "E-NIFTI-FLAT": "a two-dimensional image",
    "E-NIFTI-SERIES": "several volumes, and nothing says which",
    "E-NIFTI-BVAL": "b-values that do not choose a volume",
    "E-NIFTI-DATATYPE": "voxels that are no real numbers",
    "E-NIFTI-BITPIX": "a size of voxels that contradicts their type",
    "E-NIFTI-OFFSET": "a place of the voxels that cannot be",
    "E-NIFTI-EXTENSION": "a header extension of impossible size",
    "E-NIFTI-SCALE": "a shift of the values that is no number",
    "E-NIFTI-UNITS": "lengths in another unit than mm",
    "E-NIFTI-PIXDIM": "a voxel size of zero, or none",
    "E-NIFTI-CODE": "a transform code that is not defined",
    "E-NIFTI-PLACE": "nothing says where the volume lies",
    "E-NIFTI-SFORM": "an sform that is no transform",
    "E-NIFTI-QFORM": "a qform that is no transform",
    "E-NIFTI-HANDEDNESS": "sform and qform that swap left and right",
    "E-LIMIT-VOXELS": "more voxels than --max-voxels",
    "E-LIMIT-BYTES": "more bytes than --max-bytes",
    "E-LIMIT-MEMORY": "more memory than --max-memory",
    "E-LIMIT-TIME": "more time than --timeout",
    "E-ARRAY": "an array or image in memory that is no 3-D volume of numbers",
    "E-VOXELS-EMPTY": "all voxels are the same or not finite",
    "E-VOXELS-RANGE": "values so large or small that they are no intensities",
    "E-GRID-AFFINE": "an affine that is no transform",
    "E-GRID-SPACING": "a distance between voxels that no scanner makes",
    "E-GRID-OVERLAP": "volumes that do not overlap in space",
    "E-GRID-MASK": "a brain mask on another grid",
    "E-BRAIN-NONE": "no brain in the volume",
    "E-BUNDLE-MANIFEST": "a model.json that is missing, absurd or of another format",
    "E-BUNDLE-FILE": "a file of the bundle that is missing, unlisted or too large",
    "E-BUNDLE-HASH": "a file of the bundle that was altered",
    "E-BUNDLE-MODEL": "an ONNX file that is truncated or reads other files",
    "E-BUNDLE-SIGNATURE": "a bundle that is not signed by the key that is trusted",
    "E-BUNDLE": "a checkpoint or bundle that cannot be used",
    "E-REFERENCE": "stored outputs that are damaged or belong to something else",
    "E-OUTPUT-EXISTS": "an output that stands already",
    "E-OUTPUT-WRITE": "an output that cannot be written",
    "E-VERIFY": "an engine that disagrees with the network",
    "E-BACKEND": "a backend that cannot be used",
    "E-ENGINE-RUN": "a backend that failed while it ran",
    "E-ENGINE-OUTPUT": "a backend whose output is no probability",
}

WARNINGS = {
    "W-NIFTI-VOLUME": "one volume, or the mean of some, was chosen by the b-values",
    "W-NIFTI-PIXDIM": "a voxel size of zero or less that is not needed",
    "W-NIFTI-SPACING": "voxel sizes that differ from those of the sform",
    "W-NIFTI-QFORM": "a qform that is no transform, beside a sound sform",
    "W-NIFTI-TRANSFORMS": "sform and qform that differ",
    "W-NIFTI-SHEAR": "axes that are not perpendicular",
    "W-NIFTI-SCALE": "a scaling that is no number and was left out",
    "W-VOXELS-LOST": "some voxels are not finite",
    "W-GRID-RESAMPLED": "a second volume was resampled to the grid of the first",
    "W-GRID-UNCOVERED": "brain that the FLAIR does not cover",
    "W-GRID-OUTSIDE": "brain outside the network's field of view",
    "W-INPUT-ADC": "an image that looks like an ADC map",
    "W-INPUT-SPACING": "a spacing outside the range of the training data",
    "W-INPUT-INTENSITY": "intensities outside the range of the training data",
    "W-BRAIN-SIZE": "a brain of implausible size",
    "W-BACKEND-PASSED": "a backend that should run here was passed over",
    "W-ENGINE": "something that the engine had to do otherwise than usual",
    "W-CHECK-UNSAVED": "the self-check of an engine could not be kept",
    "W-MASK-EMPTY": "no lesion was found",
    "W-MASK-LARGE": "lesion over half the brain",
}


@dataclass(frozen=True)
class Notice:
    """A warning: something that a reader of the mask should know.

    Attributes
    ----------
    code
        One of `WARNINGS`.
    text
        What is odd, and where.
    """

    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"
