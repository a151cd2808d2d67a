"""Volumes from verified NIfTI files and from nibabel images."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode, Notice
from cnnres_infer.core.arrays import Affine, FloatArray
from cnnres_infer.core.case import Case, Modality, Role
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume, overflows
from cnnres_infer.errors import GeometryError, UsageError, VolumeError
from cnnres_infer.host.machine import resident_bytes
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.readers.bvalues import mean_of, unusual
from cnnres_infer.readers.nifti.affine import resolve_affine
from cnnres_infer.readers.nifti.bvals import select_b0, select_volumes
from cnnres_infer.readers.nifti.header import (
    HEADER_SIZES,
    TRANSFORM_FIELDS,
    Fields,
    Header,
    check_units,
)
from cnnres_infer.readers.nifti.sidecar import check_sidecars
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
    """Read a NIfTI file as a case of its own; see `cnnres_infer.readers.load_case`.

    A series of DWI holds its b0 as well.
    """
    if pick.series:
        raise UsageError(f"{path}: `series` is for DICOM studies, and this is a NIfTI file")
    loaded = _load(path, limits, affine, Role(modality), wanted=pick.b_value)
    return Case(modality, loaded.volume, b0=loaded.b0, b_value=loaded.b_value)


def load_volume(
    path: Path,
    limits: Limits = DEFAULT_LIMITS,
    affine: Affine | None = None,
    *,
    role: Role | None = None,
    is_mask: bool = False,
) -> Volume:
    """Read a NIfTI file; see `cnnres_infer.readers.load_volume`.

    The file is decompressed to its end and verified before any of it is used
    (see `cnnres_infer.readers.nifti.stream`). In a series, the volumes are
    selected by the ``.bval`` file (see `cnnres_infer.readers.nifti.bvals`).
    """
    return _load(path, limits, affine, role, is_mask=is_mask, with_b0=False).volume


class _Loaded(NamedTuple):
    """A volume of a file and, where they are known, its b0 and its b-value in s/mm²."""

    volume: Volume
    b0: Volume | None
    b_value: float | None


def _load(
    path: Path,
    limits: Limits,
    affine: Affine | None,
    role: Role | None,
    *,
    is_mask: bool = False,
    with_b0: bool = True,
    wanted: float | None = None,
) -> _Loaded:
    stream = read_verified(path, limits)
    header = stream.header
    chosen = _choose(path, header.volumes, role, wanted)
    grid, source, grid_notices = _read_grid(header.transforms, header.shape, str(path), affine)
    notices = (*header.notices, *chosen.notices, *grid_notices)
    parts = [(chosen.indices, chosen.geometric, notices)]
    if chosen.b0 and with_b0:
        parts.append((chosen.b0, False, ()))
    with stream.content.getbuffer() as raw:
        voxels = [_read_voxels(raw, header, indices, geometric) for indices, geometric, _ in parts]
    del stream
    volumes = [
        Volume.from_voxels(
            values,
            grid,
            volume_name(path),
            noted,
            overflowed=overflowed,
            is_mask=is_mask,
            source=source,
        )
        for (values, overflowed), (_, _, noted) in zip(voxels, parts, strict=True)
    ]
    return _Loaded(volumes[0], volumes[1] if len(volumes) > 1 else None, chosen.b_value)


class _Choice(NamedTuple):
    """The volumes of a file that are read: one, or those to average, and those of b0."""

    indices: tuple[int, ...]
    geometric: bool
    b_value: float | None
    b0: tuple[int, ...]
    notices: tuple[Notice, ...]


def _choose(path: Path, count: int, role: Role | None, wanted: float | None) -> _Choice:
    if count == 1:
        b_value, notices = (None, ()) if role is None else check_sidecars(path, role, wanted)
        return _Choice((0,), False, b_value, (), notices)
    if role is Role.B0:
        indices, notice = select_b0(path, count)
        return _Choice(indices, False, None, (), (notice,))
    if role in (None, Role.DWI):
        selected = select_volumes(path, count, wanted)
        notices = (selected.notice, *unusual(selected.b_value))
        return _Choice(selected.indices, True, selected.b_value, selected.b0, notices)
    raise VolumeError(
        f"{path}: contains {count} volumes; give a single volume as {role}",
        code=ErrorCode.NIFTI_SERIES,
    )


def volume_from_image(
    image: "Nifti1Image",
    name: str = "volume",
    affine: Affine | None = None,
    limits: Limits = DEFAULT_LIMITS,
    *,
    is_mask: bool = False,
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
    limits
        The maximum size of the volume.
    is_mask
        Whether all voxels may be the same.

    Raises
    ------
    VolumeError
        If it is not a NIfTI image of a single 3-D volume of real numbers.
    LimitError
        If it exceeds a limit; its voxels are not read.
    GeometryError
        If the position of the voxels is unknown, or the header contradicts the
        image's affine.
    """
    from nibabel.nifti1 import Nifti1Header

    header = getattr(image, "header", None)
    if not isinstance(header, Nifti1Header):
        raise VolumeError(f"{name}: not a NIfTI image but {type(image).__name__}; convert it")
    shape = tuple(int(n) for n in image.shape)
    if len(shape) > 3 and all(n == 1 for n in shape[3:]):
        shape = shape[:3]
    if len(shape) != 3:
        raise VolumeError(f"{name}: an image of {len(shape)} dimensions; give a single 3-D volume")
    check_units(int(header["xyzt_units"]), name)
    dtype = image.get_data_dtype()
    if dtype.names:
        raise VolumeError(f"{name}: voxels of type {dtype}; give real numbers")
    limits.check_size(name, shape, math.prod(shape) * dtype.itemsize, resident_bytes())
    fields = {key: np.array(header[key]) for key in TRANSFORM_FIELDS}
    grid, source, notices = _read_grid(fields, (shape[0], shape[1], shape[2]), name, affine)
    # Without an affine of its own, an image lies where its header says.
    moved = image.affine is not None and not np.allclose(image.affine, grid.affine, atol=1e-3)
    if source is not None and moved:
        raise GeometryError(
            f"{name}: the image's affine is not the one in its header; call update_header()"
        )
    try:
        data = np.asanyarray(image.dataobj).reshape(shape)
    except (ValueError, OverflowError, EOFError, OSError) as error:
        raise VolumeError(f"{name}: the voxels cannot be read ({error})") from error
    return Volume.from_array(data, grid, name, notices, is_mask=is_mask, source=source)


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
    raw: memoryview, header: Header, indices: Sequence[int], geometric: bool
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
            parts = (_scaled(each[chunk], header.scale) for each in stored)
            exact = next(parts) if len(stored) == 1 else mean_of(parts, geometric=geometric)
            values[chunk] = exact
            overflowed |= overflows(exact, values[chunk])
    return values.reshape(header.shape, order="F"), overflowed


def _scaled(stored: NDArray[Any], scale: tuple[float, float] | None) -> NDArray[Any]:
    if scale is None:
        return stored
    slope, intercept = scale
    return stored.astype(np.float64) * slope + intercept
