"""The table of readers: the supported file formats, recognised by content."""

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
    """A file format.

    Attributes
    ----------
    module
        Name of a module with ``recognises(head: bytes) -> bool``, which is
        given the first bytes of a file, and ``load_volume``, with the parameters
        of `load_volume`. It is imported only when a file is read.
    """

    module: str

    def recognises(self, head: bytes) -> bool:
        """Whether a file that starts with `head` is of this format."""
        return bool(import_module(self.module).recognises(head))

    @property
    def load(self) -> Load:
        """The module's ``load_volume``."""
        load: Load = import_module(self.module).load_volume
        return load


READERS = {"nifti": Reader("cnnres_infer.readers.nifti.read")}
# Files that no reader recognises go to this one, whose errors say what is wrong with them.
FALLBACK = "nifti"
_HEAD_BYTES = 1 << 12


def load_volume(
    path: Path | str,
    limits: Limits = DEFAULT_LIMITS,
    affine: Affine | None = None,
    *,
    may_be_zero: bool = False,
) -> Volume:
    """Read and check a file with a 3-D volume, or with a series from which one can be selected.

    Parameters
    ----------
    path
        The file.
    limits
        The maximum size of the file and the volume.
    affine
        (4, 4), voxel indices to mm in RAS+. Used only if the file itself does
        not say where the volume lies.
    may_be_zero
        Whether all voxels may be zero, as in the mask of a scan without lesions.

    Raises
    ------
    VolumeError
        If the file cannot be read, is damaged, or is not a 3-D volume of real
        numbers.
    GeometryError
        If the position of the voxels is unknown or contradictory.
    LimitError
        If the file exceeds a limit, or its header says so.
    """
    path = Path(path)
    return _reader(path).load(path, limits, affine, may_be_zero=may_be_zero)


def _reader(path: Path) -> Reader:
    others = [reader for name, reader in READERS.items() if name != FALLBACK]
    head = _head(path) if others else b""
    return next((each for each in others if each.recognises(head)), READERS[FALLBACK])


def _head(path: Path) -> bytes:
    """First bytes of a regular file; empty if it cannot be read, which the fallback reports."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except (OSError, ValueError):
        return b""
