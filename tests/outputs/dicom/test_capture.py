"""The secondary capture shows the overlay, and says what it must not be used for."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from cnnres_infer.outputs.writers.overlay import OUTLINE, draw_overlay
from tests.fakes.dicom import classic_images, save
from tests.outputs.dicom.made import rendered, result_of
from tests.readers.dicom.scans import B0, TRACE, read


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> FileDataset:
    study = save(tmp_path_factory.mktemp("Doe^Jane"), classic_images([B0, TRACE]))
    return rendered(result_of(read(study)), "dicom-sc")


def test_its_attributes(capture: FileDataset) -> None:
    assert capture.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert capture.BodyPartExamined == "BRAIN"
    assert capture.BurnedInAnnotation == "YES"
    assert "Laterality" not in capture
    assert capture.ConversionType == "WSD"
    assert list(capture.PatientOrientation) == ["L", "P"]
    assert "DateOfSecondaryCapture" not in capture


def test_it_shows_the_overlay_below_a_banner(capture: FileDataset, tmp_path: Path) -> None:
    pixels: NDArray[np.uint8] = capture.pixel_array
    result = result_of(read(save(tmp_path, classic_images([B0, TRACE]))))
    overlay = np.asarray(draw_overlay(result.volume, result.mask, brain=result.brain))
    banner = len(pixels) - len(overlay) - 26 * 2
    tiles = len(overlay) - 26
    np.testing.assert_array_equal(pixels[banner : banner + tiles], overlay[:tiles])
    assert (pixels == np.array(OUTLINE)).all(axis=2).any()
    # The note is burnt in.
    assert (pixels[:banner].max(axis=2) > 150).sum() > 500


def test_it_names_the_series_and_not_the_case(tmp_path: Path) -> None:
    images = classic_images([B0, TRACE])
    first, second = (
        rendered(result_of(read(save(tmp_path / name, images))), "dicom-sc").PixelData
        for name in ("Doe^Jane", "another")
    )
    assert first == second
