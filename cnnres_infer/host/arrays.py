"""Reading NumPy archives whose sizes are known before anything is decompressed."""

import io
import math
import zipfile
from collections.abc import Collection
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_arrays(content: bytes, names: Collection[str], max_bytes: int) -> dict[str, NDArray[Any]]:
    """Read arrays of an ``.npz`` archive.

    Parameters
    ----------
    content
        Content of the archive.
    names
        Names of the arrays; others are not read.
    max_bytes
        The most bytes that all of them may have together.

    Returns
    -------
    dict
        The arrays by name.

    Raises
    ------
    ValueError
        If the archive is damaged, lacks an array, or holds objects, or if the
        headers of its arrays say that they are larger than `max_bytes`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            present = set(archive.namelist())
            if missing := [name for name in names if f"{name}.npy" not in present]:
                raise ValueError(f"no array {missing[0]!r}")
            left = max_bytes
            arrays = {}
            for name in names:
                with archive.open(f"{name}.npy") as file:
                    arrays[name] = _read(file, name, left)
                left -= arrays[name].nbytes
            return arrays
    except ValueError:
        raise
    except Exception as error:
        # Archives raise eight kinds of errors, and whatever Python's own parser raises for a
        # damaged header of an array comes on top.
        raise ValueError(f"not an intact .npz file ({error})") from error


def _read(file: IO[bytes], name: str, max_bytes: int) -> NDArray[Any]:
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"array {name!r} is of an unknown format {version}")
    shape, fortran, dtype = _HEADERS[version](file)
    nbytes = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"array {name!r} is not one of numbers or text")
    if nbytes > max_bytes:
        raise ValueError(f"array {name!r} has {nbytes} bytes, more than {max_bytes}")
    # One byte more than there should be, so that the end is seen and the checksum compared.
    stored = file.read(nbytes + 1)
    if len(stored) != nbytes:
        raise ValueError(f"array {name!r} does not have the {nbytes} bytes that its header says")
    return np.ndarray(shape, dtype, bytearray(stored), order="F" if fortran else "C")
