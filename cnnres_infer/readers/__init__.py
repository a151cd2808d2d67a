"""The table of readers: which formats are read, told apart by content."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

from cnnres_infer.core.arrays import Affine
from cnnres_infer.core.volume import Volume
from cnnres_infer.limits import DEFAULT_LIMITS, Limits

Load: TypeAlias = Callable[..., Volume]


@dataclass(frozen=True)
class Reader:
    """A format that volumes are read from.

    Attributes
    ----------
    module
        Has ``recognises(head: bytes) -> bool``, told by a file's first bytes, and
        ``load_volume`` with the parameters of `load_volume`; imported only when
        a file is read.
    """

    module: str

    def recognises(self, head: bytes) -> bool:
        """Tell whether a file that begins so is of this format."""
        return bool(import_module(self.module).recognises(head))

    @property
    def load(self) -> Load:
        """Read and check a file."""
        load: Load = import_module(self.module).load_volume
        return load


READERS = {"nifti": Reader("cnnres_infer.readers.nifti.read")}
# Reads what no reader recognises, and so explains what is wrong with it.
FALLBACK = "nifti"
_HEAD_BYTES = 1 << 12


def load_volume(
    path: Path | str,
    limits: Limits = DEFAULT_LIMITS,
    affine: Affine | None = None,
    *,
    may_be_zero: bool = False,
) -> Volume:
    """Read a file that holds one 3-D volume, or several of which one can be chosen.

    Parameters
    ----------
    limits
        What the file may hold at most.
    affine
        (4, 4), voxels to mm in RAS+, for a file that does not say where it
        lies; otherwise of no effect.
    may_be_zero
        Whether all voxels may be zero, as in the mask of a scan without lesion.

    Raises
    ------
    VolumeError
        If the file cannot be read, is damaged, or is no 3-D image of numbers.
    GeometryError
        If it does not say where the voxels lie.
    LimitError
        If it holds or claims more than the limits.
    """
    path = Path(path)
    return _reader(path).load(path, limits, affine, may_be_zero=may_be_zero)


def _reader(path: Path) -> Reader:
    others = [reader for name, reader in READERS.items() if name != FALLBACK]
    head = _head(path) if others else b""
    return next((each for each in others if each.recognises(head)), READERS[FALLBACK])


def _head(path: Path) -> bytes:
    """First bytes of a regular file; none of what cannot be read, which the fallback explains."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except (OSError, ValueError):
        return b""
