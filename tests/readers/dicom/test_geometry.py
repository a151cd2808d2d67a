"""Frames in any order and orientation make the right grid, and only complete ones do."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset

from cnnres_infer.errors import InputError
from tests.conftest import ORIENTATIONS, oriented_affine
from tests.fakes.dicom import (
    CLASSIC,
    Scan,
    classic_images,
    enhanced_image,
    mosaic_images,
    save,
    written_order,
)
from tests.readers.dicom.scans import B0, DIRECTIONS, TRACE, agrees, noise, read


@settings(max_examples=40)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    tilt=st.tuples(*[st.floats(-0.4, 0.4)] * 3),
    spacing=st.tuples(st.floats(0.4, 3), st.floats(0.4, 3), st.floats(1, 8)),
    seed=st.integers(0, 2**32 - 1),
    layout=st.sampled_from(["classic", "enhanced", "mosaic", "united"]),
)
def test_any_orientation_and_order(
    orientation: tuple[tuple[int, ...], tuple[int, ...]],
    tilt: tuple[float, float, float],
    spacing: tuple[float, float, float],
    seed: int,
    layout: str,
) -> None:
    shape = (7, 6, 5)
    affine = oriented_affine(*orientation, spacing, tilt, shape)
    affine[:3, 3] += [3.25, -40.5, 77]
    data = noise(seed % 100, shape)
    trace = Scan(data, affine, 1000.0, "trace")
    b0 = trace.but(data=data[::-1], b=0.0, kind="b0")
    rng = np.random.default_rng(seed)
    images: Any
    if layout == "classic":
        images = classic_images([trace, b0])
    elif layout == "enhanced":
        images = enhanced_image([trace, b0], order=list(rng.permutation(10)))
    else:
        images = mosaic_images([trace, b0], maker=layout.replace("mosaic", "siemens"))
    expected, place = written_order(data, affine)
    with tempfile.TemporaryDirectory() as folder:
        volume = read(save(Path(folder), images)).volume
    np.testing.assert_array_equal(volume.data, expected)
    np.testing.assert_allclose(volume.grid.affine, place, rtol=0, atol=1e-3)


def moved(image: FileDataset, *by: float) -> None:
    place = np.array([float(each) for each in image.ImagePositionPatient]) + by
    image.ImagePositionPatient = [f"{each:.6f}" for each in place]


def height(image: FileDataset) -> float:
    return float(image.ImagePositionPatient[2])


def series(*scans: Scan) -> list[FileDataset]:
    return sorted(classic_images(scans or [TRACE]), key=height)


def without(place: int) -> list[FileDataset]:
    images = series()
    del images[place]
    return images


def duplicate() -> list[FileDataset]:
    images = series()
    copy = classic_images([TRACE.but(slices=[3], data=TRACE.data // 2)])
    copy[0].SOPInstanceUID = copy[0].SOPInstanceUID[:-1]
    return [*images, *copy]


def shifted() -> list[FileDataset]:
    images = series()
    normal = np.cross(TRACE.orientation[:3], TRACE.orientation[3:])
    moved(images[4], *(2.0 * normal))
    return images


def tilted() -> list[FileDataset]:
    images = series()
    for z, image in enumerate(images):
        moved(image, *(0.8 * z * TRACE.orientation[3:]))
    return images


def mixed() -> list[FileDataset]:
    images = series()
    images[2].ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
    return images


def spaced() -> list[FileDataset]:
    images = series()
    images[1].PixelSpacing = ["1", "1"]
    return images


def sized() -> list[FileDataset]:
    images = series()
    images[1].Rows, images[1].Columns = images[1].Columns, images[1].Rows
    return images


def nowhere() -> list[FileDataset]:
    images = series()
    del images[2].ImagePositionPatient
    return images


def short_of_b0() -> list[FileDataset]:
    return series(TRACE.but(slices=range(5)), B0)


def uneven_directions() -> list[FileDataset]:
    return series(DIRECTIONS[0], DIRECTIONS[1].but(slices=[0, 1, 2, 3, 5, 6]))


FAULTS: dict[str, tuple[Callable[[], list[FileDataset]], str]] = {
    "missing": (lambda: without(3), "some are missing"),
    "duplicate": (duplicate, "2 images at one position"),
    "unequally spaced": (shifted, "unequally spaced"),
    "tilted": (tilted, "gantry tilt"),
    "mixed orientation": (mixed, "different orientation"),
    "mixed spacing": (spaced, "pixel spacing"),
    "mixed size": (sized, "different size"),
    "without a position": (nowhere, "without a position"),
    "without slices that b0 has": (short_of_b0, "slices are missing"),
    "a direction without a slice": (uneven_directions, "some are missing"),
    "a single slice": (lambda: series(TRACE.but(slices=[2])), "a single slice"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_slices_that_make_no_volume(fault: str, tmp_path: Path) -> None:
    images, reason = FAULTS[fault]
    save(tmp_path, images())
    with pytest.raises(InputError, match=reason) as caught:
        read(tmp_path)
    assert caught.value.code == "E-DICOM-SLICES"


def test_cosines_that_differ_in_the_eighth_digit(tmp_path: Path) -> None:
    images = series()
    for z, image in enumerate(images):
        image.ImageOrientationPatient = [
            str(round(float(each) + z * 3e-8, 10)) for each in image.ImageOrientationPatient
        ]
    save(tmp_path, images)
    assert agrees(read(tmp_path).volume, TRACE)


def test_positions_rounded_to_hundredths(tmp_path: Path) -> None:
    images = series()
    for image in images:
        image.ImagePositionPatient = [f"{float(each):.2f}" for each in image.ImagePositionPatient]
    save(tmp_path, images)
    volume = read(tmp_path).volume
    np.testing.assert_allclose(volume.grid.affine, TRACE.affine, rtol=0, atol=0.011)
    np.testing.assert_array_equal(volume.data, TRACE.data)


def test_instance_numbers_do_not_matter(tmp_path: Path) -> None:
    images = series()
    for image in images:
        image.InstanceNumber = 1
    assert images[0].SOPClassUID == CLASSIC
    save(tmp_path, images)
    assert agrees(read(tmp_path).volume, TRACE)
