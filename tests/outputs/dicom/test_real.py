"""DICOM outputs of the headers of real scanners, from files that come with pip packages."""

import gzip
import io
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.volume import Volume
from cnnres_infer.readers import load_volume
from tests.outputs.dicom.made import (
    complaints,
    in_order,
    rendered,
    result_of,
    some_voxels,
    world_of_frames,
)

NIBABEL = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"
PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
MR_SMALL = ("MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm")
pytestmark = pytest.mark.filterwarnings("ignore:The DICOM readers are highly")


def unpacked(name: str) -> FileDataset:
    return pydicom.dcmread(io.BytesIO(gzip.decompress((NIBABEL / name).read_bytes())))


def filled(image: FileDataset) -> FileDataset:
    """An image whose pixels were removed, with others."""
    count = int(image.get("NumberOfFrames", 1)) * image.Rows * image.Columns
    pixels = np.random.default_rng(0).integers(1, 4000, count).astype("<u2")
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.PixelData = pixels.tobytes()
    return image


def siemens_mosaic(folder: Path) -> Path:
    """A Siemens mosaic of b = 1000."""
    filled(unpacked("siemens_dwi_1000.dcm.gz")).save_as(folder / "mosaic.dcm")
    return folder / "mosaic.dcm"


def philips_enhanced(folder: Path) -> Path:
    """A Philips enhanced image of 176 frames; not a DWI, but it does not matter here."""
    image = filled(unpacked("philips_mprage.dcm.gz"))
    image.save_as(folder / "enhanced.dcm")
    return folder / "enhanced.dcm"


def classic(name: str, folder: Path) -> Path:
    """Slices with the header of a real image, one above the other."""
    (folder / "series").mkdir()
    for z in range(4):
        image = pydicom.dcmread(PYDICOM / name)
        image.SOPInstanceUID = generate_uid(entropy_srcs=[name, str(z)])
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        along = np.array(image.ImageOrientationPatient, float)
        place = np.array(image.ImagePositionPatient, float)
        place += 5.0 * z * np.cross(along[:3], along[3:])
        image.ImagePositionPatient = [f"{each:.6f}" for each in place]
        image.save_as(folder / "series" / f"{z}")
    return folder / "series"


def check(volume: Volume, folder: Path) -> None:
    """The SEG lies where the mask does, and dciodvfy accepts all that is written."""
    mask = some_voxels(volume.grid.shape)
    mask[:, :, 8:] = False
    result = result_of(Case(Modality.DWI, volume), mask)
    ours = in_order(volume.grid.to_mm(np.argwhere(mask).astype(np.float64)))
    for name in ("dicom-seg", "dicom-labelmap"):
        found = in_order(world_of_frames(rendered(result, name)))
        np.testing.assert_allclose(found, ours, rtol=0, atol=1e-6)
    if shutil.which("dciodvfy"):
        saved = result.save(folder / "out", ("dicom-seg", "dicom-sr", "dicom-sc"))
        for path in saved.paths.values():
            assert complaints(path) == []


def test_siemens_mosaic(tmp_path: Path) -> None:
    check(load_volume(siemens_mosaic(tmp_path)), tmp_path)


@pytest.mark.slow
def test_philips_enhanced(tmp_path: Path) -> None:
    check(load_volume(philips_enhanced(tmp_path)), tmp_path)


@pytest.mark.parametrize("name", MR_SMALL)
def test_classic(name: str, tmp_path: Path) -> None:
    check(load_volume(classic(name, tmp_path)), tmp_path)
