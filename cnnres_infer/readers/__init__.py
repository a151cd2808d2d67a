"""The table of readers: the supported file formats, recognised by content."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cnnres_infer.core.arrays import Affine
from cnnres_infer.core.case import Case, Modality, Role
from cnnres_infer.core.volume import Volume
from cnnres_infer.host.files import open_regular
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.readers.pick import EVERYTHING, Pick

_HEAD_BYTES = 1 << 12


@dataclass(frozen=True)
class Reader:
    """A format of files, or of folders.

    Attributes
    ----------
    module
        Name of the module that reads it, imported only when something is read.
        It has ``recognises(path, head) -> bool``, which is given the first bytes
        of a file (none of a folder); ``case_name(path)``, ``load_volume`` and
        ``load_case``, with the parameters of the functions of these names here.
    """

    module: str

    @property
    def functions(self) -> Any:
        """The module itself."""
        return import_module(self.module)


# The first that recognises a path reads it. DICOM comes first: its files may start with anything,
# such as the first bytes of a NIfTI header.
READERS = {
    "dicom": Reader("cnnres_infer.readers.dicom.read"),
    "nifti": Reader("cnnres_infer.readers.nifti.read"),
}
# What no reader recognises goes to these, whose errors say what is wrong with it.
FALLBACK, FOLDER_FALLBACK = "nifti", "dicom"


def load_volume(
    path: Path | str,
    limits: Limits = DEFAULT_LIMITS,
    affine: Affine | None = None,
    *,
    role: Role | None = None,
    is_mask: bool = False,
) -> Volume:
    """Read and check a file with a 3-D volume, or with a series from which one can be selected.

    Parameters
    ----------
    path
        The file.
    limits
        The maximum size of the file and the volume.
    affine
        (4, 4), voxel indices to mm in RAS+. For a file that does not say
        itself where the volume lies.
    role
        What the volume is to a case; of a series, the volume for it is selected,
        and a single volume must not be of another kind by what lies beside it.
        None takes a single volume as it is, and a series for a DWI.
    is_mask
        Whether all voxels may be the same, as in a mask without lesions.

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
    volume: Volume = _functions(path).load_volume(path, limits, affine, role=role, is_mask=is_mask)
    return volume


def load_case(
    path: Path | str,
    modality: Modality = Modality.DWI,
    limits: Limits = DEFAULT_LIMITS,
    affine: Affine | None = None,
    pick: Pick = EVERYTHING,
) -> Case:
    """Read and check everything that belongs to a scan, as far as the format holds it.

    Parameters
    ----------
    path
        The file or folder.
    modality
        What the volume to be segmented shows.
    limits, affine
        See `load_volume`.
    pick
        What the caller decided where there are several images.

    Raises
    ------
    InputError
        If a volume must not be segmented.
    UsageError
        If there is nothing to decide.
    """
    path = Path(path)
    case: Case = _functions(path).load_case(path, modality, limits, affine, pick)
    return case


def case_name(path: Path) -> str:
    """Name of the case in a file or folder, from which its outputs are named.

    Raises
    ------
    VolumeError
        If the name of the file does not suit its format.
    """
    name: str = _functions(path).case_name(path)
    return name


def reader_of(path: Path) -> str:
    """Name of the reader of a file or folder."""
    head = _head(path)
    for name, reader in READERS.items():
        if reader.functions.recognises(path, head):
            return name
    return FOLDER_FALLBACK if path.is_dir() else FALLBACK


def _functions(path: Path) -> Any:
    """Module of the reader for a path."""
    return READERS[reader_of(path)].functions


def _head(path: Path) -> bytes:
    """First bytes of a regular file; empty if there are none to read, which its reader reports."""
    try:
        with open_regular(path) as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""
