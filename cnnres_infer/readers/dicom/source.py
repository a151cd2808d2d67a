"""What DICOM outputs need of the images that a volume was read from."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FrameReference:
    """A frame that a slice was read from.

    Attributes
    ----------
    sop_class, sop_instance
        UIDs of its file.
    frame
        Its number in the file, from 1; None in a file of one frame.
    tile
        Its index in a mosaic, from 0; None without.
    """

    sop_class: str
    sop_instance: str
    frame: int | None
    tile: int | None


@dataclass(frozen=True, eq=False)
class DicomSource:
    """`Volume.source` of a volume that was read from DICOM.

    Attributes
    ----------
    path
        The study: a folder, an archive or a file.
    study, series, frame_of_reference
        UIDs; empty where the files have none.
    slices
        The frames of each slice, in the order of the third voxel axis.
    """

    path: Path
    study: str
    series: str
    frame_of_reference: str
    slices: tuple[tuple[FrameReference, ...], ...]
