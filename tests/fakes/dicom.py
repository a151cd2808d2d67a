"""Writes DICOM series of known geometry, with the b-values coded as each vendor does."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CLASSIC = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"
LPS = np.diag([-1.0, -1.0, 1.0])
STUDY, REFERENCE = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["reference"])
Stored = NDArray[np.uint16]
Coding = Callable[[Dataset, float, str], None]


@dataclass
class Scan:
    """A volume to write, in the voxel order that the reader gives back.

    `b` and `kind` ("trace", "direction", "b0", "adc", "flair", "other") go to `coding`.
    """

    data: Stored
    affine: NDArray[np.float64]
    b: float = 0.0
    kind: str = "b0"
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "OTHER")
    slope: float | None = None
    slices: Sequence[int] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    def but(self, **changes: Any) -> "Scan":
        return replace(self, **changes)

    def pixels(self, z: int) -> Stored:
        """Rows and columns of a slice."""
        return np.ascontiguousarray(self.data[:, ::-1, z].T)

    def position(self, z: int) -> NDArray[np.float64]:
        corner = self.affine @ [0, self.data.shape[1] - 1, z, 1]
        return np.asarray(LPS @ corner[:3])

    @property
    def orientation(self) -> NDArray[np.float64]:
        vectors = LPS @ self.affine[:3, :2] / np.linalg.norm(self.affine[:3, :2], axis=0)
        return np.concatenate((vectors[:, 0], -vectors[:, 1]))

    @property
    def spacing(self) -> list[float]:
        x, y = np.linalg.norm(self.affine[:3, :2], axis=0)
        return [float(y), float(x)]

    @property
    def zs(self) -> Sequence[int]:
        return range(self.data.shape[2]) if self.slices is None else self.slices


def written_order(
    data: NDArray[Any], affine: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The same volume with slices in the order in which the reader gives them."""
    if np.linalg.det(affine[:3, :3]) < 0:
        return data, affine
    flip = np.eye(4)
    flip[2, 2], flip[2, 3] = -1, data.shape[2] - 1
    return data[:, :, ::-1], affine @ flip


def ds(number: float) -> str:
    """A decimal string of at most 16 characters."""
    return str(pydicom.valuerep.DSfloat(float(number), auto_format=True))


def private(dataset: Dataset, group: int, creator: str, **elements: tuple[str, Any]) -> None:
    block = dataset.private_block(group, creator, create=True)
    for name, (vr, value) in elements.items():
        block.add_new(int(name[1:], 16), vr, value)


def standard(dataset: Dataset, b: float, kind: str) -> None:
    dataset.DiffusionBValue = float(b)
    dataset.DiffusionDirectionality = {"trace": "ISOTROPIC", "direction": "DIRECTIONAL"}.get(
        kind, "NONE"
    )


def siemens(dataset: Dataset, b: float, kind: str) -> None:
    dataset.Manufacturer = "SIEMENS"
    stated = {"trace": "ISOTROPIC", "direction": "DIRECTIONAL"}.get(kind, "NONE")
    private(dataset, 0x19, "SIEMENS MR HEADER", _0C=("IS", str(int(b))), _0D=("CS", stated))
    if kind == "direction":
        private(dataset, 0x19, "SIEMENS MR HEADER", _0E=("FD", [0.6, 0.0, 0.8]))


def ge(dataset: Dataset, b: float, kind: str) -> None:
    dataset.Manufacturer = "GE MEDICAL SYSTEMS"
    stated = int(b) + (1_000_000_000 if b else 0)
    private(
        dataset,
        0x43,
        "GEMS_PARM_01",
        _39=("IS", [str(stated), "8", "0", "0"]),
        _30=("SS", {"trace": 15, "direction": 16, "b0": 14}.get(kind, 0)),
        _2F=("SS", 0),
    )


def philips(dataset: Dataset, b: float, kind: str) -> None:
    dataset.Manufacturer = "Philips Medical Systems"
    letter = {"trace": "I", "direction": "O", "b0": "I"}.get(kind, "N")
    private(
        dataset,
        0x2001,
        "Philips Imaging DD 001",
        _03=("FL", b or 0.0023),
        _04=("CS", letter),
    )


def united(dataset: Dataset, b: float, kind: str) -> None:
    dataset.Manufacturer = "UIH"
    vector = [0.0, 0.6, 0.8] if kind == "direction" else [0.0, 0.0, 0.0]
    private(dataset, 0x65, "Image Private Header", _09=("FD", b), _37=("FD", vector))


def toshiba(dataset: Dataset, b: float, kind: str) -> None:
    dataset.Manufacturer = "TOSHIBA_MEC"
    if b:
        dataset.DiffusionBValue = float(b)
        vector = "(0.445,0.000,0.895)" if kind == "direction" else ""
        dataset.ImageComments = f"b={b:g}{vector}"


def canon_comment(dataset: Dataset, b: float, kind: str) -> None:
    dataset.Manufacturer = "CANON_MEC"
    dataset.ImageComments = f"b={b:g}" + ("(0.1,0.2,0.97)" if kind == "direction" else "")


def sequence_name(dataset: Dataset, b: float, kind: str) -> None:
    """De-identified Siemens, whose private attributes are gone."""
    dataset.Manufacturer = "SIEMENS"
    dataset.SequenceName = f"*ep_b{b:g}" + {"trace": "t", "direction": "#3"}.get(kind, "")


def nothing(dataset: Dataset, b: float, kind: str) -> None:
    del dataset, b, kind


VENDORS: dict[str, Coding] = {
    "standard": standard,
    "siemens": siemens,
    "ge": ge,
    "philips": philips,
    "united": united,
    "toshiba": toshiba,
    "canon": canon_comment,
    "siemens, de-identified": sequence_name,
}


def header(
    sop_class: str, series: str, number: int, description: str, syntax: str = ExplicitVRLittleEndian
) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = generate_uid(entropy_srcs=["tests"])
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, series
    dataset.FrameOfReferenceUID = REFERENCE
    dataset.SeriesNumber, dataset.SeriesDescription = number, description
    dataset.PatientID, dataset.PatientName, dataset.Modality = "A1", "Nobody", "MR"
    dataset.AcquisitionDate, dataset.AcquisitionTime = "20260101", f"10{number % 60:02d}00"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    return dataset


def identify(dataset: FileDataset, *entropy: object) -> None:
    uid = generate_uid(entropy_srcs=[dataset.SeriesInstanceUID, "-".join(map(str, entropy))])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid


def classic_images(
    scans: Sequence[Scan],
    coding: Coding = standard,
    *,
    number: int = 3,
    description: str = "DWI",
    syntax: str = ExplicitVRLittleEndian,
    uid: str = "",
) -> list[FileDataset]:
    """One image a slice; instance numbers are in no order."""
    series = uid or generate_uid(entropy_srcs=[str(number), description])
    images = []
    for which, scan in enumerate(scans):
        for z in scan.zs:
            dataset = header(CLASSIC, series, number, description, syntax)
            identify(dataset, which, z)
            dataset.ImageType = list(scan.image_type)
            dataset.ImagePositionPatient = [ds(each) for each in scan.position(z)]
            dataset.ImageOrientationPatient = [ds(each) for each in scan.orientation]
            dataset.PixelSpacing = [ds(each) for each in scan.spacing]
            pixels = scan.pixels(z)
            dataset.Rows, dataset.Columns = pixels.shape
            dataset.PixelData = pixels.astype("<u2").tobytes()
            if scan.slope is not None:
                dataset.RescaleSlope, dataset.RescaleIntercept = ds(scan.slope), "0"
            coding(dataset, scan.b, scan.kind)
            for name, value in scan.attributes.items():
                setattr(dataset, name, value)
            images.append(dataset)
    for instance, place in enumerate(np.random.default_rng(number).permutation(len(images))):
        images[place].InstanceNumber = instance + 1
    return images


def enhanced_image(
    scans: Sequence[Scan],
    *,
    number: int = 3,
    description: str = "DWI",
    shared: bool = True,
    order: Sequence[int] | None = None,
    diffusion: Coding | None = None,
) -> FileDataset:
    """All slices of all scans in one file, by default interleaved by position.

    `shared`: whether pixel spacing and orientation are stored once or for each frame.
    `diffusion`: None for the standard's macro, or what codes an item of Philips' own sequence.
    """
    series = generate_uid(entropy_srcs=[str(number), description])
    dataset = header(ENHANCED, series, number, description)
    identify(dataset)
    planned = [(scan, z) for z in range(scans[0].data.shape[2]) for scan in scans if z in scan.zs]
    planned = planned if order is None else [planned[i] for i in order]
    first = scans[0]
    dataset.Rows, dataset.Columns = first.pixels(0).shape
    dataset.NumberOfFrames = len(planned)
    dataset.ImageType = list(first.image_type)
    common, frames = Dataset(), []
    _geometry(common if shared else None, first)
    for scan, z in planned:
        item = Dataset()
        _geometry(None if shared else item, scan)
        item.PlanePositionSequence = _one(
            ImagePositionPatient=[ds(each) for each in scan.position(z)]
        )
        item.MRImageFrameTypeSequence = _one(FrameType=list(scan.image_type))
        slope = 1 if scan.slope is None else scan.slope
        item.PixelValueTransformationSequence = _one(
            RescaleSlope=ds(slope), RescaleIntercept="0", RescaleType="US"
        )
        if diffusion is not None:
            nested = Dataset()
            diffusion(nested, scan.b, scan.kind)
            item.add_new(0x20050014, "LO", "Philips MR Imaging DD 005")
            item.add_new(0x2005140F, "SQ", DicomSequence([nested]))
        elif scan.kind not in ("adc", "flair", "other"):
            macro = Dataset()
            standard(macro, scan.b, scan.kind)
            item.MRDiffusionSequence = DicomSequence([macro])
        for name, value in scan.attributes.items():
            setattr(dataset, name, value)
        frames.append(item)
    dataset.SharedFunctionalGroupsSequence = DicomSequence([common])
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    pixels = np.stack([scan.pixels(z) for scan, z in planned])
    dataset.PixelData = pixels.astype("<u2").tobytes()
    return dataset


def _geometry(item: Dataset | None, scan: Scan) -> None:
    if item is not None:
        item.PixelMeasuresSequence = _one(
            PixelSpacing=[ds(each) for each in scan.spacing], SliceThickness="3"
        )
        item.PlaneOrientationSequence = _one(
            ImageOrientationPatient=[ds(each) for each in scan.orientation]
        )


def _one(**elements: Any) -> DicomSequence:
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return DicomSequence([item])


def mosaic_images(
    scans: Sequence[Scan],
    *,
    number: int = 3,
    description: str = "ep2d_diff",
    maker: str = "siemens",
    count: bool = True,
) -> list[FileDataset]:
    """One image a volume, its slices as tiles."""
    series = generate_uid(entropy_srcs=[str(number), description])
    images = []
    for which, scan in enumerate(scans):
        slices = scan.data.shape[2]
        rows, columns = scan.pixels(0).shape
        across = int(np.ceil(np.sqrt(slices)))
        down = across if maker == "siemens" else int(np.ceil(slices / across))
        whole = np.zeros((down * rows, across * columns), np.uint16)
        for z in range(slices):
            r, c = divmod(z, across)
            whole[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns] = scan.pixels(z)
        dataset = header(CLASSIC, series, number, description)
        identify(dataset, which)
        flag = "MOSAIC" if maker == "siemens" else "VFRAME"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND", flag]
        dataset.Rows, dataset.Columns = whole.shape
        dataset.PixelData = whole.astype("<u2").tobytes()
        dataset.PixelSpacing = [ds(each) for each in scan.spacing]
        dataset.ImageOrientationPatient = [ds(each) for each in scan.orientation]
        step = LPS @ scan.affine[:3, 2]
        dataset.SpacingBetweenSlices = ds(float(np.linalg.norm(step)))
        position = scan.position(0)
        dataset.InstanceNumber = which + 1
        if maker == "siemens":
            right, below = scan.orientation[:3], scan.orientation[3:]
            position = (
                position
                - right * scan.spacing[1] * (across - 1) * columns / 2
                - below * scan.spacing[0] * (across - 1) * rows / 2
            )
            siemens(dataset, scan.b, scan.kind)
            if count:
                private(dataset, 0x19, "SIEMENS MR HEADER", _0A=("US", slices))
            normal = [f"{each:.8f}" for each in step / np.linalg.norm(step)]
            private(dataset, 0x29, "SIEMENS CSA HEADER", _10=("OB", csa(SliceNormalVector=normal)))
        else:
            united(dataset, scan.b, scan.kind)
            places = []
            for z in range(slices):
                item = Dataset()
                item.ImagePositionPatient = [ds(each) for each in scan.position(z)]
                places.append(item)
            private(
                dataset,
                0x65,
                "Image Private Header",
                _50=("DS", str(slices)),
                _51=("SQ", DicomSequence(places)),
            )
        dataset.ImagePositionPatient = [ds(each) for each in position]
        images.append(dataset)
    return images


def csa(**tags: list[str]) -> bytes:
    """Siemens' own header, with some of its tags."""
    content = b"SV10" + bytes((4, 3, 2, 1)) + struct.pack("<2I", len(tags), 77)
    for name, values in tags.items():
        content += name.encode().ljust(64, b"\0")
        vr = b"CS\0\0" if values[0].isalpha() else b"FD\0\0"
        content += struct.pack("<i4s3i", len(values), vr, 4, len(values), 77)
        for value in values:
            size = len(value) + 1
            content += struct.pack("<4i", size, size, 77, size)
            content += value.encode().ljust(-(-size // 4) * 4, b"\0")
    return content


def encode(dataset: FileDataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def save(folder: Path, *series: Sequence[FileDataset] | FileDataset) -> Path:
    """Write files into nested folders, without suffix, in no order."""
    images = [each for one in series for each in ([one] if isinstance(one, Dataset) else one)]
    for place, dataset in enumerate(images):
        inside = folder / f"{dataset.SeriesNumber}" / f"{place % 3}"
        inside.mkdir(parents=True, exist_ok=True)
        name = f"I{zlib.crc32(dataset.SOPInstanceUID.encode()):08X}"
        (inside / name).write_bytes(encode(dataset))
    return folder


def archive(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                out.write(file, file.relative_to(folder))
    return path
