"""Real DICOM files that come with pip packages."""

import gzip
import io
import itertools
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from cnnres_infer.core.grid import Grid
from cnnres_infer.errors import GeometryError
from cnnres_infer.limits import DEFAULT_LIMITS
from cnnres_infer.readers.dicom.files import StudyFile
from cnnres_infer.readers.dicom.frames import Frame
from cnnres_infer.readers.dicom.geometry import stack
from cnnres_infer.readers.dicom.inspect import inspect
from cnnres_infer.readers.dicom.pixels import read_voxels
from cnnres_infer.readers.dicom.second_opinion import check_mosaic
from cnnres_infer.readers.dicom.study import open_study
from tests.readers.dicom.scans import read

NIBABEL = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"
PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
PAIR = ("siemens_dwi_0.dcm.gz", "siemens_dwi_1000.dcm.gz")
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
pytestmark = pytest.mark.filterwarnings("ignore:The DICOM readers are highly")


def opened(name: str) -> FileDataset:
    return pydicom.dcmread(io.BytesIO(gzip.decompress((NIBABEL / name).read_bytes())))


def wrapped(image: FileDataset) -> Any:
    """nibabel's own view of an image."""
    from nibabel.nicom.dicomwrappers import wrapper_from_data

    return wrapper_from_data(image)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Siemens' mosaics of b = 0 and 1000; their pixels were removed, so they get others."""
    for seed, name in enumerate(PAIR):
        image = opened(name)
        shape = (image.Rows, image.Columns)
        pixels = np.random.default_rng(seed).integers(1, 4000, shape).astype("<u2")
        image.PixelData = pixels.tobytes()
        image.save_as(tmp_path / name.removesuffix(".dcm.gz"))
    return tmp_path


def corners(affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """Positions of the corner voxels in an order that does not depend on the axes."""
    ends = np.array(list(itertools.product(*((0, size - 1) for size in shape))), float)
    found = np.asarray(ends @ affine[:3, :3].T + affine[:3, 3])
    return found[np.lexsort(found.round(1).T)]


def assert_same_places(grid: Grid, affine: NDArray[np.float64], shape: Sequence[int]) -> None:
    np.testing.assert_allclose(
        corners(grid.affine, grid.shape), corners(affine, shape), rtol=0, atol=5e-3
    )


def test_the_siemens_pair_as_nibabel_sees_it(pair: Path) -> None:
    case = read(pair)
    wrapper = wrapped(pydicom.dcmread(pair / "siemens_dwi_1000"))
    theirs = np.asarray(wrapper.get_data())
    assert_same_places(case.volume.grid, LPS @ wrapper.affine, theirs.shape)
    # nibabel's first axis runs along the rows of an image, from the first to the last.
    np.testing.assert_array_equal(case.volume.data, theirs.transpose(1, 0, 2)[:, ::-1])
    assert case.b0 is not None
    assert case.b_value == 1000


def test_the_siemens_pair_as_dcm2niix_sees_it(
    pair: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import dcm2niix

    out = tmp_path_factory.mktemp("out")
    command = [dcm2niix.bin, "-b", "n", "-z", "n", "-f", "a", "-o", str(out), str(pair)]
    subprocess.run(command, check=True, capture_output=True)
    image = nibabel.load(out / "a.nii")
    case = read(pair)
    assert case.b0 is not None
    np.testing.assert_allclose(case.volume.grid.affine, image.affine, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(case.volume.data, image.dataobj[..., 1])
    np.testing.assert_array_equal(case.b0.data, image.dataobj[..., 0])


def test_a_mosaic_is_compared_with_dcm2niix(pair: Path) -> None:
    grid = read(pair).volume.grid
    file = StudyFile("mosaic", pair / "siemens_dwi_1000")
    check_mosaic(file, grid, DEFAULT_LIMITS)
    upside_down = grid.affine * [1, 1, -1, 1]
    with pytest.raises(GeometryError, match="dcm2niix places its slices") as caught:
        check_mosaic(file, type(grid)(grid.shape, upside_down), DEFAULT_LIMITS)
    assert caught.value.code == "E-DICOM-SLICES"


def test_the_philips_multiframe_as_nibabel_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "mprage"
    path.write_bytes(gzip.decompress((NIBABEL / "philips_mprage.dcm.gz").read_bytes()))
    with open_study(path, DEFAULT_LIMITS) as study:
        (series,) = study.series
        made = stack(series.images, "mprage", single=True)
    wrapper = wrapped(pydicom.dcmread(path))
    assert_same_places(made.grid, LPS @ wrapper.affine, wrapper.image_shape)
    report = inspect(path)
    assert report.error is not None
    assert [(each.what, each.frames) for each in report.series] == [("other", 176)]


def test_compressed_pixels_are_those_of_the_plain_file(tmp_path: Path) -> None:
    names = ("MR_small.dcm", *(f"MR_small_{kind}.dcm" for kind in CODED))
    found = {}
    for name in names:
        with open_study(PYDICOM / name, DEFAULT_LIMITS) as study:
            (frame,) = study.series[0].frames
            made = stack([frame, _moved(frame)], "two slices of the same pixels", single=True)
            found[name], _ = read_voxels(made, name, DEFAULT_LIMITS, geometric=False)
    plain = pydicom.dcmread(PYDICOM / "MR_small.dcm").pixel_array
    for name, voxels in found.items():
        np.testing.assert_array_equal(voxels[:, ::-1, 0].T, plain, err_msg=name)


CODED = ("RLE", "jp2klossless", "jpeg_ls_lossless", "implicit", "bigendian", "expb")


def _moved(frame: Frame) -> Frame:
    assert frame.place is not None
    position = frame.place.position + 2 * frame.place.normal
    return replace(frame, place=replace(frame.place, position=position))


@pytest.mark.parametrize(
    "path",
    [*sorted(PYDICOM.glob("*.dcm")), *sorted(NIBABEL.glob("*.dcm"))],
    ids=lambda path: path.name,
)
def test_any_file_is_described_or_refused(path: Path) -> None:
    report = inspect(path)
    assert report.series or report.problems
    assert report.error is not None
    assert report.error.code.startswith("E-DICOM-")
