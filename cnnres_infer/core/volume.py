"""Volumes on their grids: from verified NIfTI files, and to NIfTI files written atomically."""

import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import Notice
from cnnres_infer.errors import GeometryError, VolumeError
from cnnres_infer.host.atomic import write_all
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.readers.nifti.affine import FARTHEST_MM, Affine, is_sheared, place
from cnnres_infer.readers.nifti.bvals import choose_volumes
from cnnres_infer.readers.nifti.header import TRANSFORM_FIELDS, Fields, Header, check_units
from cnnres_infer.readers.nifti.stream import read_verified, volume_name

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

__all__ = [
    "Affine",
    "FloatArray",
    "Grid",
    "Probabilities",
    "Volume",
    "load_volume",
    "save_volume",
    "volume_bytes",
    "volume_from_array",
    "volume_from_image",
    "volume_name",
]

FloatArray = NDArray[np.float32]

# Beyond these no scanner makes an image of a head.
_SMALLEST_MM, _LARGEST_MM = 0.01, 100.0

# Beyond these, sums and ratios of voxels leave what 32 bits hold.
_SMALLEST, _LARGEST = 1e-30, 1e30

# Voxels that are converted at once.
_AT_ONCE = 1 << 20


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
    transforms: Fields = field(default_factory=dict, repr=False)

    @np.errstate(all="ignore")
    def __post_init__(self) -> None:
        affine = np.array(self.affine, np.float64)
        if affine.shape != (4, 4) or not (np.abs(affine) < FARTHEST_MM).all():
            raise GeometryError("the affine is not a 4 x 4 matrix of finite numbers in mm")
        if not np.linalg.norm(affine[:3, :3], axis=0).all() or not np.linalg.det(affine[:3, :3]):
            raise GeometryError(
                "the affine is singular: the volume has no extent in some direction"
            )
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if not ((spacing >= _SMALLEST_MM) & (spacing <= _LARGEST_MM)).all():
            raise GeometryError(
                "voxels of " + " x ".join(f"{step:.3g}" for step in spacing) + " mm are no image "
                "of a head; correct the header or the affine",
                code="E-GRID-SPACING",
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
    warnings: tuple[Notice, ...] = ()

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


def load_volume(
    path: Path | str,
    limits: Limits = DEFAULT_LIMITS,
    affine: Affine | None = None,
    *,
    may_be_zero: bool = False,
) -> Volume:
    """Read a NIfTI file, compressed or not, that holds one 3-D volume.

    The file is inflated to its end and verified before any of it is used (see
    `cnnres_infer.readers.nifti.stream`). Of several volumes the diffusion-weighted one
    is chosen by the ``.bval`` file (see `cnnres_infer.readers.nifti.bvals`).

    Parameters
    ----------
    limits
        What the file may hold at most.
    affine
        (4, 4), voxels to mm in RAS+, for a file that does not say where it
        lies (sform and qform codes 0); otherwise of no effect.
    may_be_zero
        Whether all voxels may be zero, as in the mask of a scan without lesion.

    Raises
    ------
    VolumeError
        If the file cannot be read, is damaged, or is no 3-D image of numbers.
    GeometryError
        If its header does not say where the voxels lie.
    LimitError
        If it holds or claims more than the limits.
    """
    path = Path(path)
    stream = read_verified(path, limits)
    header = stream.header
    chosen: tuple[int, ...] = (0,)
    notices = header.notices
    if header.volumes > 1:
        chosen, notice = choose_volumes(path, header.volumes)
        notices += (notice,)
    grid, odd = _grid(header.transforms, header.shape, str(path), affine)
    with stream.content.getbuffer() as raw:
        values, overflown = _stored_voxels(raw, header, chosen)
    del stream
    return _volume(values, overflown, grid, volume_name(path), notices + odd, may_be_zero)


def volume_from_image(
    image: "Nifti1Image", name: str = "volume", affine: Affine | None = None
) -> Volume:
    """Take over a nibabel image; see `load_volume`."""
    header = getattr(image, "header", None)
    if header is None or "sform_code" not in header:
        raise VolumeError(f"{name}: {type(image).__name__} is no NIfTI image")
    shape = tuple(int(n) for n in image.shape)
    if len(shape) > 3 and all(n == 1 for n in shape[3:]):
        shape = shape[:3]
    if len(shape) != 3:
        raise VolumeError(f"{name}: an image of {len(shape)} dimensions; give a single 3-D volume")
    check_units(int(header["xyzt_units"]), name)
    if image.get_data_dtype().names:
        raise VolumeError(f"{name}: voxels of type {image.get_data_dtype()}; one number is needed")
    fields = {key: np.array(header[key]) for key in TRANSFORM_FIELDS}
    grid, odd = _grid(fields, (shape[0], shape[1], shape[2]), name, affine)
    if grid.transforms and not np.allclose(image.affine, grid.affine, atol=1e-3):
        raise GeometryError(f"{name}: its affine is not that of its header: call update_header()")
    try:
        data = np.asanyarray(image.dataobj).reshape(shape)
    except (ValueError, OverflowError, EOFError, OSError) as error:
        raise VolumeError(f"{name}: the voxels cannot be read ({error})") from error
    return volume_from_array(data, grid, name, odd)


def volume_from_array(
    data: NDArray[Any],
    grid: Grid | NDArray[Any],
    name: str = "volume",
    warnings: tuple[Notice, ...] = (),
    *,
    may_be_zero: bool = False,
) -> Volume:
    """Take over an array (X, Y, Z) with its grid, or with its RAS+ affine in mm (4, 4).

    Raises
    ------
    VolumeError
        If the array is not 3-D, or holds no two different finite numbers (unless
        all are zero and may be).
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
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.array(data, np.float32, order="K")
    overflown = data.dtype.itemsize > 4 and _overflown(data, values)
    return _volume(values, overflown, grid, name, warnings, may_be_zero)


def _volume(
    values: FloatArray,
    overflown: bool,
    grid: Grid,
    name: str,
    warnings: tuple[Notice, ...],
    may_be_zero: bool,
) -> Volume:
    """Take over voxels that are nobody else's, if they can be an image."""
    # One that is not finite makes an extreme that is not; so no mask of them is needed.
    least, most = _extremes(values)
    lost = not (math.isfinite(least) and math.isfinite(most))
    if lost:
        invalid = ~np.isfinite(values)
        values[invalid] = 0.0
        text = f"{np.count_nonzero(invalid)} voxels are not finite and were taken as zero"
        warnings += (Notice("W-VOXELS-LOST", text),)
        least, most = _extremes(values)
    largest = max(most, -least)
    if overflown or largest > _LARGEST or 0 < largest < _SMALLEST:
        raise VolumeError(
            f"{name}: values up to {largest:.2g}, which are no intensities; correct the scale "
            "factor",
            code="E-VOXELS-RANGE",
        )
    all_zero = may_be_zero and largest == 0 and not lost
    if values.size == 0 or (least == most and not all_zero):
        raise VolumeError(
            f"{name}: all voxels are the same or not finite; there is no image in it",
            code="E-VOXELS-EMPTY",
        )
    return Volume(values, grid, name, warnings)


def _extremes(values: FloatArray) -> tuple[float, float]:
    """The least and the most of some values, zero where there are none."""
    if values.size == 0:
        return 0.0, 0.0
    with np.errstate(invalid="ignore"):
        return float(values.min()), float(values.max())


def _overflown(exact: NDArray[Any], values: FloatArray) -> bool:
    """Whether numbers that were finite are no longer so as float32."""
    lost = ~np.isfinite(values)
    return bool(lost.any() and np.isfinite(exact[lost]).any())


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
    header = (nibabel.Nifti2Header if wide else nibabel.Nifti1Header)()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header["vox_offset"] = header.single_vox_offset
    if grid.transforms:
        for key, value in grid.transforms.items():
            header[key] = value
    else:
        header.set_xyzt_units("mm")
        header.set_sform(grid.affine, code="scanner")
        header.set_zooms(grid.spacing)
        if not is_sheared(grid.affine):
            header.set_qform(grid.affine, code="scanner")
    # Not by nibabel's images, which mend odd transforms that are to be repeated.
    voxels = data.astype(header.get_data_dtype(), copy=False).tobytes(order="F")
    content: bytes = header.binaryblock.ljust(header.single_vox_offset, b"\0") + voxels
    return gzip.compress(content, compresslevel=4, mtime=0) if compressed else content


def _grid(
    fields: Fields, shape: tuple[int, int, int], name: str, affine: Affine | None
) -> tuple[Grid, tuple[Notice, ...]]:
    """Grid of a header; it repeats the header's transforms unless these say nothing."""
    placed, notices = place(fields, shape, name, affine)
    says = fields["sform_code"] or fields["qform_code"]
    try:
        return Grid(shape, placed, fields if says else {}), notices
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}", code=error.code) from error


def _stored_voxels(
    raw: memoryview, header: Header, chosen: Sequence[int]
) -> tuple[FloatArray, bool]:
    """Voxels (X, Y, Z) of a volume of a verified file, or the mean of several, scaled.

    Some at a time, since in float64 they would take twice the room of the volume.

    Returns
    -------
    values
        float32.
    overflown
        Whether a finite one was too large for that.
    """
    count = math.prod(header.shape)
    starts = [header.offset + index * count * header.dtype.itemsize for index in chosen]
    stored = [np.frombuffer(raw, header.dtype, count, start) for start in starts]
    values, overflown = np.empty(count, np.float32), False
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, count, _AT_ONCE):
            parts = [each[first : first + _AT_ONCE] for each in stored]
            mean = parts[0] if len(parts) == 1 else np.mean(parts, axis=0, dtype=np.float64)
            exact = np.asarray(mean)
            if header.scale is not None:
                slope, intercept = header.scale
                exact = exact.astype(np.float64) * slope + intercept
            values[first : first + _AT_ONCE] = exact
            overflown |= _overflown(exact, values[first : first + _AT_ONCE])
    return values.reshape(header.shape, order="F"), overflown
