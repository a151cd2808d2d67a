"""Arrays on a grid to NIfTI files, with the header of the file that the grid came from."""

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.grid import Grid
from cnnres_infer.host.atomic import write_all
from cnnres_infer.readers.nifti.affine import is_sheared
from cnnres_infer.readers.nifti.source import NiftiSource


def save_volume(
    path: Path,
    data: NDArray[np.generic],
    grid: Grid,
    source: object = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write an array on a grid as NIfTI, completely or not at all; see `volume_bytes`.

    Raises
    ------
    OutputExistsError
        If the file exists and `overwrite` is False.
    """
    content = volume_bytes(data, grid, source, compressed=path.name.endswith(".gz"))
    write_all({path: content}, overwrite)


def volume_bytes(
    data: NDArray[np.generic], grid: Grid, source: object = None, *, compressed: bool = True
) -> bytes:
    """Content of a NIfTI file that holds an array on a grid.

    Parameters
    ----------
    data
        (X, Y, Z).
    source
        `Volume.source` of the volume whose grid it is. Where that came from
        NIfTI, the transforms of its header (sform, qform, their codes, units)
        are repeated as they stood there, in the same version of NIfTI.
    """
    import nibabel

    transforms = source.transforms if isinstance(source, NiftiSource) else {}
    wide = transforms and transforms["srow_x"].dtype.itemsize == 8
    header = (nibabel.Nifti2Header if wide else nibabel.Nifti1Header)()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header["vox_offset"] = header.single_vox_offset
    if transforms:
        for key, value in transforms.items():
            header[key] = value
    else:
        header.set_xyzt_units("mm")
        header.set_sform(grid.affine, code="scanner")
        header.set_zooms(grid.spacing)
        if not is_sheared(grid.affine):
            header.set_qform(grid.affine, code="scanner")
    # Not by nibabel's images, which repair odd transforms that are to be repeated.
    voxels = data.astype(header.get_data_dtype(), copy=False).tobytes(order="F")
    content: bytes = header.binaryblock.ljust(header.single_vox_offset, b"\0") + voxels
    return gzip.compress(content, compresslevel=4, mtime=0) if compressed else content
