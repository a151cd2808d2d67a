"""Volumes from verified NIfTI files and from nibabel images."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnres_infer.codes import Notice
from cnnres_infer.core.arrays import Affine, FloatArray
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume, overflows
from cnnres_infer.errors import GeometryError, UsageError, VolumeError
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.readers.nifti.affine import resolve_affine
from cnnres_infer.readers.nifti.bvals import select_volumes
from cnnres_infer.readers.nifti.header import (
    HEADER_SIZES,
    TRANSFORM_FIELDS,
    Fields,
    Header,
    check_units,
)
from cnnres_infer.readers.nifti.source import NiftiSource
from cnnres_infer.readers.nifti.stream import GZIP, read_verified, volume_name
from cnnres_infer.readers.pick import EVERYTHING, Pick

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

_CHUNK_VOXELS = 1 << 20


def recognises(path: Path, head: bytes) -> bool:
    """Whether a file that starts with `head` is NIfTI; any gzip file is taken for one."""
    size = head[:4]
    return head.startswith(GZIP) or any(
        int.from_bytes(size, order) in HEADER_SIZES for order in ("little", "big")
    )


def case_name(path: Path) -> str:
    """Name of the file without its suffix; see `cnnres_infer.readers.case_name`."""
    return volume_name(path)


def load_case(
    path: Path,
    modality: Modality,
    limits: Limits,
    affine: Affine | None,
    pick: Pick = EVERYTHING,
) -> Case:
    """Read a NIfTI file as a case of its own; see `cnnres_infer.readers.load_case`."""
    if pick.series:
        raise UsageError(f"{path}: `series` is for DICOM studies, and this is a NIfTI file")
    return Case(modality, load_volume(path, limits, affine))


def load_volume(
    path: Path,
    limits: Limits = DEFAULT_LIMITS,
    affine: Affine | None = None,
    *,
    may_be_zero: bool = False,
) -> Volume:
    """Read a NIfTI file; see `cnnres_infer.readers.load_volume`.

    The file is decompressed to its end and verified before any of it is used
    (see `cnnres_infer.readers.nifti.stream`). In a series, the
    diffusion-weighted volume is selected by the ``.bval`` file (see
    `cnnres_infer.readers.nifti.bvals`).
    """
    stream = read_verified(path, limits)
    header = stream.header
    selected: tuple[int, ...] = (0,)
    notices = header.notices
    if header.volumes > 1:
        selected, notice = select_volumes(path, header.volumes)
        notices += (notice,)
    grid, source, grid_notices = _read_grid(header.transforms, header.shape, str(path), affine)
    with stream.content.getbuffer() as raw:
        values, overflowed = _read_voxels(raw, header, selected)
    del stream
    return Volume.from_voxels(
        values,
        grid,
        volume_name(path),
        notices + grid_notices,
        overflowed=overflowed,
        may_be_zero=may_be_zero,
        source=source,
    )


def volume_from_image(
    image: "Nifti1Image", name: str = "volume", affine: Affine | None = None
) -> Volume:
    """Create a volume from a copy of a nibabel image.

    Parameters
    ----------
    image
        A NIfTI image with a single 3-D volume.
    name
        Name used in messages and for output files.
    affine
        (4, 4), voxel indices to mm in RAS+. Used only if the header does not
        say where the volume lies.

    Raises
    ------
    VolumeError
        If it is not a NIfTI image of a single 3-D volume of real numbers.
    GeometryError
        If the position of the voxels is unknown, or the header contradicts the
        image's affine.
    """
    header = getattr(image, "header", None)
    if header is None or "sform_code" not in header:
        raise VolumeError(f"{name}: not a NIfTI image but {type(image).__name__}; convert it")
    shape = tuple(int(n) for n in image.shape)
    if len(shape) > 3 and all(n == 1 for n in shape[3:]):
        shape = shape[:3]
    if len(shape) != 3:
        raise VolumeError(f"{name}: an image of {len(shape)} dimensions; give a single 3-D volume")
    check_units(int(header["xyzt_units"]), name)
    if image.get_data_dtype().names:
        raise VolumeError(f"{name}: voxels of type {image.get_data_dtype()}; give real numbers")
    fields = {key: np.array(header[key]) for key in TRANSFORM_FIELDS}
    grid, source, notices = _read_grid(fields, (shape[0], shape[1], shape[2]), name, affine)
    if source is not None and not np.allclose(image.affine, grid.affine, atol=1e-3):
        raise GeometryError(
            f"{name}: the image's affine is not the one in its header; call update_header()"
        )
    try:
        data = np.asanyarray(image.dataobj).reshape(shape)
    except (ValueError, OverflowError, EOFError, OSError) as error:
        raise VolumeError(f"{name}: the voxels cannot be read ({error})") from error
    return Volume.from_array(data, grid, name, notices, source=source)


def _read_grid(
    fields: Fields, shape: tuple[int, int, int], name: str, affine: Affine | None
) -> tuple[Grid, NiftiSource | None, tuple[Notice, ...]]:
    """Grid of a header; the source is None if the header defines no transform to reproduce."""
    resolved, notices = resolve_affine(fields, shape, name, affine)
    has_transform = fields["sform_code"] or fields["qform_code"]
    try:
        return Grid(shape, resolved), NiftiSource(fields) if has_transform else None, notices
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}", code=error.code) from error


def _read_voxels(
    raw: memoryview, header: Header, indices: Sequence[int]
) -> tuple[FloatArray, bool]:
    """Read and scale a volume of a verified file, or the mean of several.

    The voxels are converted in chunks: in float64, the whole volume would take
    twice the memory of the result.

    Returns
    -------
    values
        float32 (X, Y, Z).
    overflowed
        Whether a finite value was too large for float32.
    """
    count = math.prod(header.shape)
    starts = [header.offset + index * count * header.dtype.itemsize for index in indices]
    stored = [np.frombuffer(raw, header.dtype, count, start) for start in starts]
    values, overflowed = np.empty(count, np.float32), False
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, count, _CHUNK_VOXELS):
            chunk = slice(first, first + _CHUNK_VOXELS)
            parts = [each[chunk] for each in stored]
            mean = parts[0] if len(parts) == 1 else np.mean(parts, axis=0, dtype=np.float64)
            exact = np.asarray(mean)
            if header.scale is not None:
                slope, intercept = header.scale
                exact = exact.astype(np.float64) * slope + intercept
            values[chunk] = exact
            overflowed |= overflows(exact, values[chunk])
    return values.reshape(header.shape, order="F"), overflowed
