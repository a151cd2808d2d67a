"""The frames of DICOM files: where they lie and what they show."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.readers.bvalues import LARGEST_B0
from cnnres_infer.readers.dicom.files import StudyFile
from cnnres_infer.readers.dicom.headers import damaged
from cnnres_infer.readers.dicom.kinds import ENHANCED_MR, Kind, is_of_diffusion, kind_of, no_image
from cnnres_infer.readers.dicom.mosaic import Tiles, tiles_of
from cnnres_infer.readers.dicom.vendors import (
    Directionality,
    b_value,
    directionality,
    image_type,
)
from cnnres_infer.readers.dicom.views import PER_FRAME, View, items

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset


@dataclass(frozen=True, eq=False)
class Place:
    """Where a frame lies, in DICOM's patient coordinates (LPS+, mm).

    Attributes
    ----------
    position
        (3,): centre of the pixel in the first row and column.
    along_row, along_column
        (3,): unit vectors of increasing columns and of increasing rows.
    row_step, column_step
        Distance between rows, and between columns.
    """

    position: NDArray[np.float64]
    along_row: NDArray[np.float64]
    along_column: NDArray[np.float64]
    row_step: float
    column_step: float

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,): unit vector perpendicular to the frame."""
        normal: NDArray[np.float64] = np.cross(self.along_row, self.along_column)
        return normal


@dataclass(frozen=True, eq=False)
class Image:
    """A file with one or more frames.

    Attributes
    ----------
    file
        The file.
    study, series, sop_class, sop_instance, frame_of_reference
        UIDs; empty where they are absent.
    number
        Number of the series; None without.
    description
        Description of the series, or the name of its protocol.
    patient
        ID of the patient, or the name without one.
    acquired
        Date and time of the acquisition, in digits, as far as it is known.
    transfer_syntax
        UID of the coding of the pixels; empty if the file does not say.
    """

    file: StudyFile
    study: str
    series: str
    sop_class: str
    sop_instance: str
    frame_of_reference: str
    number: int | None
    description: str
    patient: str
    acquired: str
    transfer_syntax: str


@dataclass(frozen=True, eq=False)
class Frame:
    """A slice of an image.

    Attributes
    ----------
    image
        The file that it is in.
    kind
        What it shows.
    why
        The attribute or value by which that was told.
    shape
        Numbers of rows and columns.
    place
        Where it lies; None if the file does not say.
    index
        Index in a multi-frame file, from 0; None in a file of one frame.
    tiles, tile
        The layout of a mosaic, and the index in it; None without.
    scale
        Slope and intercept from stored values to intensities.
    b, directionality
        b-value in s/mm2, None without, and the kind of weighting.
    of_diffusion
        Whether it says that it was acquired to show diffusion, weighted or not.
    """

    image: Image
    kind: Kind
    why: str
    shape: tuple[int, int]
    place: Place | None = None
    index: int | None = None
    tiles: Tiles | None = field(default=None, repr=False)
    tile: int | None = None
    scale: tuple[float, float] = (1.0, 0.0)
    b: float | None = None
    directionality: Directionality = Directionality.UNKNOWN
    of_diffusion: bool = False


def image_of(file: StudyFile, dataset: "FileDataset") -> Image:
    """What identifies a file."""
    view = View(dataset)
    number = view.number("SeriesNumber")
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", "") if dataset.file_meta else ""
    moment = (
        view.text("AcquisitionDateTime")
        or (view.text("AcquisitionDate") + view.text("AcquisitionTime"))
        or (view.text("ContentDate") + view.text("ContentTime"))
    )
    return Image(
        file,
        study=view.text("StudyInstanceUID"),
        series=view.text("SeriesInstanceUID"),
        sop_class=view.text("SOPClassUID"),
        sop_instance=view.text("SOPInstanceUID"),
        frame_of_reference=view.text("FrameOfReferenceUID"),
        number=None if number is None else int(number),
        description=view.text("SeriesDescription") or view.text("ProtocolName"),
        patient=view.text("PatientID") or view.text("PatientName"),
        acquired=moment,
        transfer_syntax=str(syntax),
    )


def frames_of(image: Image, dataset: "FileDataset") -> list[Frame]:
    """The frames of a file.

    Raises
    ------
    VolumeError
        If its attributes contradict each other, or cannot be right.
    """
    name = image.file.name
    skipped = no_image(View(dataset))
    if skipped:
        return [Frame(image, Kind.SKIPPED, skipped, (0, 0))]
    shape = (_size(dataset, "Rows", name), _size(dataset, "Columns", name))
    count = _frame_count(dataset, name)
    if image.sop_class not in ENHANCED_MR:
        if count not in (None, 1):
            raise damaged(name, f"{count} frames in an image of a single one")
        return _classic(image, dataset, shape)
    groups = len(items(dataset, PER_FRAME))
    if count is None or groups != count:
        raise damaged(name, f"NumberOfFrames is {count}, but {groups} frames are described")
    return [
        _frame(image, view, shape, _place(view), index)
        for index, view in enumerate(View.of_frames(dataset))
    ]


def _classic(image: Image, dataset: "FileDataset", shape: tuple[int, int]) -> list[Frame]:
    view = View(dataset)
    types = image_type(view)
    place = _place(view)
    if "MOSAIC" in types or "VFRAME" in types:
        tiles = tiles_of(view, shape, image.file.name, place.normal if place else None)
        if place is None:
            raise damaged(image.file.name, "a mosaic without position or orientation")
        return [
            _frame(image, view, tiles.shape, _tile_place(place, tiles, tile), None, tiles, tile)
            for tile in range(tiles.count)
        ]
    return [_frame(image, view, shape, place)]


def _tile_place(place: Place, tiles: Tiles, tile: int) -> Place:
    position = tiles.position(
        tile,
        place.position,
        place.along_row * place.column_step,
        place.along_column * place.row_step,
    )
    return Place(position, place.along_row, place.along_column, place.row_step, place.column_step)


def _frame(
    image: Image,
    view: View,
    shape: tuple[int, int],
    place: Place | None,
    index: int | None = None,
    tiles: Tiles | None = None,
    tile: int | None = None,
) -> Frame:
    kind, why = kind_of(view, image.description)
    found = b_value(view)
    b = None
    if kind in (Kind.IMAGE, Kind.FLAIR) and found is not None:
        b = found[0]
        why = why if kind is Kind.FLAIR and b <= LARGEST_B0 else f"b-value in {found[1]}"
    slope, intercept = view.number("RescaleSlope"), view.number("RescaleIntercept")
    return Frame(
        image,
        kind,
        why,
        shape,
        place,
        index,
        tiles,
        tile,
        (1.0 if slope is None else slope, intercept or 0.0),
        b,
        Directionality.UNKNOWN if kind is Kind.ADC else directionality(view),
        is_of_diffusion(view),
    )


def _place(view: View) -> Place | None:
    """Where a frame lies; None if the file does not say, or nothing that makes sense."""
    position = view.numbers("ImagePositionPatient", 3)
    orientation = view.numbers("ImageOrientationPatient", 6)
    spacing = view.numbers("PixelSpacing", 2)
    if position is None or orientation is None or spacing is None:
        return None
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    orthogonal = abs(float(along_row @ along_column)) < 1e-2
    if not orthogonal or not all(math.isclose(each, 1, abs_tol=1e-2) for each in lengths):
        return None
    if min(spacing) <= 0:
        return None
    along_row, along_column = along_row / lengths[0], along_column / lengths[1]
    return Place(np.array(position), along_row, along_column, spacing[0], spacing[1])


def _size(dataset: "FileDataset", keyword: str, name: str) -> int:
    size = View(dataset).number(keyword)
    if size is None or not 0 < size < 1 << 16 or size % 1:
        raise damaged(name, f"{keyword} is {View(dataset).text(keyword) or 'missing'}")
    return int(size)


def _frame_count(dataset: "FileDataset", name: str) -> int | None:
    try:
        stated = dataset.get("NumberOfFrames")
        count = None if stated in (None, "") else int(stated)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise damaged(name, f"NumberOfFrames is no number: {error}") from error
    if count is not None and count < 1:
        raise damaged(name, f"NumberOfFrames is {count}")
    return count
