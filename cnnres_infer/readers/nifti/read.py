"""Volumes from verified NIfTI files, and from nibabel's images."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnres_infer.codes import Notice
from cnnres_infer.core.arrays import Affine, FloatArray
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume, overflows
from cnnres_infer.errors import GeometryError, VolumeError
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.readers.nifti.affine import place
from cnnres_infer.readers.nifti.bvals import choose_volumes
from cnnres_infer.readers.nifti.header import TRANSFORM_FIELDS, Fields, Header, check_units
from cnnres_infer.readers.nifti.source import NiftiSource
from cnnres_infer.readers.nifti.stream import GZIP, read_verified, volume_name

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

# Voxels that are converted at once.
_AT_ONCE = 1 << 20
_HEADER_SIZES = (348, 540)


def recognises(head: bytes) -> bool:
    """Tell by its first bytes whether a file is NIfTI, or compressed as only NIfTI is."""
    size = head[:4]
    return head.startswith(GZIP) or any(
        int.from_bytes(size, order) in _HEADER_SIZES for order in ("little", "big")
    )


def load_volume(
    path: Path,
    limits: Limits = DEFAULT_LIMITS,
    affine: Affine | None = None,
    *,
    may_be_zero: bool = False,
) -> Volume:
    """Read a NIfTI file; see `cnnres_infer.readers.load_volume`.

    The file is inflated to its end and verified before any of it is used (see
    `cnnres_infer.readers.nifti.stream`). Of several volumes the
    diffusion-weighted one is chosen by the ``.bval`` file (see
    `cnnres_infer.readers.nifti.bvals`).
    """
    stream = read_verified(path, limits)
    header = stream.header
    chosen: tuple[int, ...] = (0,)
    notices = header.notices
    if header.volumes > 1:
        chosen, notice = choose_volumes(path, header.volumes)
        notices += (notice,)
    grid, source, odd = _placed(header.transforms, header.shape, str(path), affine)
    with stream.content.getbuffer() as raw:
        values, overflowed = _stored_voxels(raw, header, chosen)
    del stream
    return Volume.from_voxels(
        values,
        grid,
        volume_name(path),
        notices + odd,
        overflowed=overflowed,
        may_be_zero=may_be_zero,
        source=source,
    )


def volume_from_image(
    image: "Nifti1Image", name: str = "volume", affine: Affine | None = None
) -> Volume:
    """Copy a nibabel image; see `load_volume`.

    Raises
    ------
    VolumeError
        If it is no NIfTI image of a single 3-D volume of numbers.
    GeometryError
        If its header does not say where the voxels lie, or contradicts its affine.
    """
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
    grid, source, odd = _placed(fields, (shape[0], shape[1], shape[2]), name, affine)
    if source is not None and not np.allclose(image.affine, grid.affine, atol=1e-3):
        raise GeometryError(f"{name}: its affine is not that of its header: call update_header()")
    try:
        data = np.asanyarray(image.dataobj).reshape(shape)
    except (ValueError, OverflowError, EOFError, OSError) as error:
        raise VolumeError(f"{name}: the voxels cannot be read ({error})") from error
    return Volume.from_array(data, grid, name, odd, source=source)


def _placed(
    fields: Fields, shape: tuple[int, int, int], name: str, affine: Affine | None
) -> tuple[Grid, NiftiSource | None, tuple[Notice, ...]]:
    """Grid of a header, and its source unless the header itself says nothing."""
    placed, notices = place(fields, shape, name, affine)
    says = fields["sform_code"] or fields["qform_code"]
    try:
        return Grid(shape, placed), NiftiSource(fields) if says else None, notices
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
    overflowed
        Whether a finite one was too large for that.
    """
    count = math.prod(header.shape)
    starts = [header.offset + index * count * header.dtype.itemsize for index in chosen]
    stored = [np.frombuffer(raw, header.dtype, count, start) for start in starts]
    values, overflowed = np.empty(count, np.float32), False
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, count, _AT_ONCE):
            parts = [each[first : first + _AT_ONCE] for each in stored]
            mean = parts[0] if len(parts) == 1 else np.mean(parts, axis=0, dtype=np.float64)
            exact = np.asarray(mean)
            if header.scale is not None:
                slope, intercept = header.scale
                exact = exact.astype(np.float64) * slope + intercept
            values[first : first + _AT_ONCE] = exact
            overflowed |= overflows(exact, values[first : first + _AT_ONCE])
    return values.reshape(header.shape, order="F"), overflowed
