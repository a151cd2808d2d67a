"""Writing NIfTI files whose transforms are those of the input's header."""

import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.grid import Grid
from cnnres_infer.host.atomic import write_all
from cnnres_infer.host.imports import hidden
from cnnres_infer.readers.nifti.affine import is_sheared
from cnnres_infer.readers.nifti.source import NiftiSource

# zlib's `wbits` for gzip with the largest window; its header then holds no time.
_GZIP_WBITS = 31
# Voxels along an axis that a NIfTI-1 header can tell.
_MAX_EXTENT = (1 << 15) - 1


def save_volume(
    path: Path,
    data: NDArray[np.generic],
    grid: Grid,
    source: object = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write an array to a NIfTI file, completely or not at all.

    Parameters
    ----------
    path
        The file; compressed if the name ends in ``.gz``.
    data, grid, source
        See `volume_bytes`.
    overwrite
        Overwrite an existing file.

    Raises
    ------
    OutputExistsError
        If the file exists and `overwrite` is False.
    OutputError
        If the file cannot be written.
    """
    content = volume_bytes(data, grid, source, compressed=path.name.endswith(".gz"))
    write_all({path: content}, overwrite)


def volume_bytes(
    data: NDArray[np.generic],
    grid: Grid,
    source: object = None,
    *,
    compressed: bool = True,
    scale: tuple[float, float] | None = None,
) -> bytes:
    """Render an array as the content of a NIfTI file.

    Parameters
    ----------
    data
        (X, Y, Z).
    grid
        The grid of the voxels.
    source
        `Volume.source` of the volume on that grid. If it was read from NIfTI,
        the transforms of its header (sform, qform, their codes, units) are
        reproduced unchanged, in the same version of NIfTI.
    compressed
        Whether to compress the content with gzip.
    scale
        Slope and intercept that turn the voxels into intensities; None without.
    """
    # nibabel would import all of pydicom with it, which takes several times as long.
    with hidden("pydicom"):
        import nibabel

    transforms = source.transforms if isinstance(source, NiftiSource) else {}
    is_long = max(data.shape) > _MAX_EXTENT
    is_nifti2 = is_long or (transforms and transforms["srow_x"].dtype.itemsize == 8)
    header = (nibabel.Nifti2Header if is_nifti2 else nibabel.Nifti1Header)()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header["vox_offset"] = header.single_vox_offset
    if scale is not None:
        header["scl_slope"], header["scl_inter"] = scale
    if transforms:
        for key, value in transforms.items():
            header[key] = value
    else:
        header.set_xyzt_units("mm")
        header.set_sform(grid.affine, code="scanner")
        header.set_zooms(grid.spacing)
        if not is_sheared(grid.affine):
            header.set_qform(grid.affine, code="scanner")
    # nibabel's image classes would repair unusual transforms instead of reproducing them.
    block: bytes = header.binaryblock.ljust(header.single_vox_offset, b"\0")
    content = chain([block], _voxels(data, header.get_data_dtype()))
    return b"".join(_gzip(content) if compressed else content)


def _voxels(data: NDArray[np.generic], dtype: np.dtype[Any]) -> Iterator[bytes]:
    """The voxels, slice by slice, since a copy of all of them would take as much memory again."""
    for z in range(data.shape[2]):
        yield data[:, :, z].astype(dtype, copy=False).tobytes(order="F")


def _gzip(content: Iterable[bytes]) -> Iterator[bytes]:
    """Compress content with gzip: runs of the same byte, and codes for the others.

    Masks and images become about as small as with a search for longer matches, in a third to
    a half of the time.
    """
    compressor = zlib.compressobj(wbits=_GZIP_WBITS, strategy=zlib.Z_RLE)
    yield from map(compressor.compress, content)
    yield compressor.flush()
