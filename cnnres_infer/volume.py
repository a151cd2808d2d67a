"""Volumes on their grids: reading and atomic writing of NIfTI files."""

import gzip
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.atomic import write_all
from cnnres_infer.errors import GeometryError, VolumeError

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

FloatArray = NDArray[np.float32]
Affine = NDArray[np.float64]

SUFFIXES = (".nii.gz", ".nii")
_TRANSFORM_FIELDS = (
    "pixdim",
    "xyzt_units",
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
)
_MAX_BYTES = 4 << 30
_NIFTI2_SIZES = ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))
_NEGLIGIBLE_SHEAR = 1e-3


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume lie in the patient.

    Attributes
    ----------
    shape
        Voxels along each of the three axes.
    affine
        float64 (4, 4): voxel indices to mm in RAS+ (right, anterior and
        superior are positive).
    transforms
        The fields of a NIfTI header that place the grid, as they stood in the
        file, so that outputs repeat them bit for bit; empty for arrays.
    """

    shape: tuple[int, int, int]
    affine: Affine
    transforms: dict[str, NDArray[np.generic]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        affine = np.array(self.affine, np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError("the affine is not a 4 x 4 matrix of finite numbers")
        if not np.linalg.norm(affine[:3, :3], axis=0).all() or not np.linalg.det(affine[:3, :3]):
            raise GeometryError(
                "the affine is singular: the volume has no extent in some direction"
            )
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each axis, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml, from the determinant (right for sheared grids too)."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def to_mm(self, index: NDArray[np.float64]) -> NDArray[np.float64]:
        """Voxel indices (..., 3) to RAS+ positions in mm (..., 3)."""
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def matches(self, other: Self, tolerance: float = 1e-3) -> bool:
        """Tell whether two grids are one, to `tolerance` in mm."""
        return self.shape == other.shape and bool(
            np.allclose(self.affine, other.affine, rtol=0, atol=tolerance)
        )


@dataclass(frozen=True, eq=False)
class Volume:
    """Intensities on a grid.

    Attributes
    ----------
    data
        float32 (X, Y, Z), finite, read-only.
    grid
        Where they lie.
    name
        What to call the volume in messages and output names.
    warnings
        What was odd about the input and mended.
    """

    data: FloatArray
    grid: Grid
    name: str = "volume"
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.data.shape != self.grid.shape:
            raise VolumeError(
                f"{self.name}: the data have the shape {self.data.shape}, not {self.grid.shape}"
            )
        if self.data.dtype != np.float32 or not np.isfinite(self.data).all():
            raise VolumeError(f"{self.name}: the data are not float32 and finite throughout")
        self.data.setflags(write=False)


@dataclass(frozen=True, eq=False)
class Probabilities:
    """The network's opinion on each voxel.

    Attributes
    ----------
    data
        float32 (X, Y, Z) in [0, 1], read-only: probability of lesion.
    grid
        Where they lie.
    """

    data: FloatArray
    grid: Grid

    def __post_init__(self) -> None:
        self.data.setflags(write=False)


def volume_name(path: Path) -> str:
    """File name without its NIfTI suffix.

    Raises
    ------
    VolumeError
        If the suffix is not one of NIfTI's.
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    raise VolumeError(f"{path}: not a NIfTI file name; give a file that ends in .nii or .nii.gz")


def load_volume(path: Path | str) -> Volume:
    """Read a 3-D NIfTI file, compressed or not.

    A compressed file is inflated to its end, so that a damaged one is refused
    and not read as far as it goes.

    Raises
    ------
    VolumeError
        If the file cannot be read, is damaged, or is no 3-D image of numbers.
    GeometryError
        If its header does not say where the voxels lie.
    """
    path = Path(path)
    name = volume_name(path)
    return volume_from_image(_parse(path, _read(path)), name)


def volume_from_image(image: "Nifti1Image", name: str = "volume") -> Volume:
    """Take over a nibabel image; see `load_volume`."""
    header = getattr(image, "header", None)
    if header is None or "sform_code" not in header:
        raise VolumeError(f"{name}: {type(image).__name__} is no NIfTI image")
    shape = tuple(int(n) for n in image.shape)
    if len(shape) > 3 and all(n == 1 for n in shape[3:]):
        shape = shape[:3]
    if len(shape) != 3:
        raise VolumeError(f"{name}: an image of {len(shape)} dimensions; give a single 3-D volume")
    if not all(shape):
        raise VolumeError(f"{name}: the image is empty (shape {shape})")
    if not header["sform_code"] and not header["qform_code"]:
        raise GeometryError(
            f"{name}: the header does not say where the volume lies (sform and qform codes are 0); "
            "write a valid sform, or pass array and affine in Python"
        )
    units = header.get_xyzt_units()[0]
    if units not in ("mm", "unknown"):
        raise GeometryError(f"{name}: the header gives lengths in {units}s; convert it to mm")
    transforms = {key: np.array(header[key]) for key in _TRANSFORM_FIELDS}
    try:
        grid = Grid((shape[0], shape[1], shape[2]), image.affine, transforms)
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}") from error
    if image.get_data_dtype().names:
        raise VolumeError(f"{name}: voxels of type {image.get_data_dtype()}; one number is needed")
    try:
        data = np.asanyarray(image.dataobj).reshape(shape)
    except (ValueError, OverflowError, EOFError, OSError) as error:
        raise VolumeError(f"{name}: the voxels cannot be read ({error})") from error
    return volume_from_array(data, grid, name)


def volume_from_array(
    data: NDArray[np.generic], grid: Grid | NDArray[np.generic], name: str = "volume"
) -> Volume:
    """Take over an array (X, Y, Z) with its grid, or with its RAS+ affine in mm (4, 4).

    Raises
    ------
    VolumeError
        If the array is not 3-D, or holds no two different finite numbers.
    GeometryError
        If the affine is singular or not finite.
    """
    if data.ndim != 3:
        raise VolumeError(f"{name}: an array of {data.ndim} dimensions; give one (X, Y, Z)")
    if data.dtype.kind not in "biuf":
        raise VolumeError(f"{name}: voxels of type {data.dtype}; one real number each is needed")
    if not isinstance(grid, Grid):
        shape = (int(data.shape[0]), int(data.shape[1]), int(data.shape[2]))
        grid = Grid(shape, np.asarray(grid, np.float64))
    values = np.array(data, np.float32, order="K")
    warnings: tuple[str, ...] = ()
    lost = ~np.isfinite(values)
    if lost.any():
        values[lost] = 0.0
        warnings = (f"{np.count_nonzero(lost)} voxels are not finite and were taken as zero",)
    if values.size == 0 or values.min() == values.max():
        raise VolumeError(f"{name}: all voxels are the same or not finite; there is no image in it")
    return Volume(values, grid, name, warnings)


def save_volume(path: Path, data: NDArray[np.generic], grid: Grid, overwrite: bool = False) -> None:
    """Write an array on a grid as NIfTI, completely or not at all; see `volume_bytes`.

    Raises
    ------
    OutputExistsError
        If the file stands and `overwrite` is False.
    """
    content = volume_bytes(data, grid, compressed=path.name.endswith(".gz"))
    write_all({path: content}, overwrite)


def volume_bytes(data: NDArray[np.generic], grid: Grid, *, compressed: bool = True) -> bytes:
    """Content of a NIfTI file that holds an array on a grid.

    The transforms of the grid's own file (sform, qform, their codes, units)
    are repeated as they stood there, in the same version of NIfTI.
    """
    import nibabel

    wide = grid.transforms and grid.transforms["srow_x"].dtype.itemsize == 8
    kind = nibabel.Nifti2Image if wide else nibabel.Nifti1Image
    header = kind.header_class()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    if grid.transforms:
        for key, value in grid.transforms.items():
            header[key] = value
    else:
        header.set_xyzt_units("mm")
        header.set_sform(grid.affine, code="scanner")
        header.set_zooms(grid.spacing)
        if not _sheared(grid.affine):
            header.set_qform(grid.affine, code="scanner")
    content: bytes = kind(data, None, header).to_bytes()
    return gzip.compress(content, compresslevel=4, mtime=0) if compressed else content


def _sheared(affine: Affine) -> bool:
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(abs(cosines.T @ cosines - np.eye(3)).max() > _NEGLIGIBLE_SHEAR)


def _read(path: Path) -> bytes:
    try:
        if not path.name.lower().endswith(".gz"):
            if path.stat().st_size > _MAX_BYTES:
                raise VolumeError(f"{path}: larger than {_MAX_BYTES >> 30} GiB")
            return path.read_bytes()
        with gzip.open(path) as stream:
            content = stream.read(_MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(f"{path}: damaged ({error}); copy it again from its source") from error
    except OSError as error:
        raise VolumeError(f"{path}: {error.strerror or error}") from error
    if len(content) > _MAX_BYTES:
        raise VolumeError(f"{path}: inflates to more than {_MAX_BYTES >> 30} GiB")
    return content


def _parse(path: Path, content: bytes) -> "Nifti1Image":
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    kind = nibabel.Nifti2Image if content[:4] in _NIFTI2_SIZES else nibabel.Nifti1Image
    try:
        image = kind.from_bytes(content)
        expected = int(image.dataobj.offset) + image.get_data_dtype().itemsize * int(
            np.prod(image.shape, dtype=object)
        )
    except (
        ImageFileError,
        HeaderDataError,
        WrapStructError,
        ValueError,
        OverflowError,
        EOFError,
    ) as error:
        raise VolumeError(f"{path}: not a readable NIfTI file ({error})") from error
    if len(content) < expected:
        raise VolumeError(f"{path}: {expected - len(content)} bytes of voxels are missing")
    return image
