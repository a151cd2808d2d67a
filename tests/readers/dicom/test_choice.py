"""Which series and b-values of a study are taken, and when none is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from cnnres_infer.core.case import Modality, Role
from cnnres_infer.errors import InputError, UsageError
from cnnres_infer.limits import DEFAULT_LIMITS
from cnnres_infer.readers import load_case, load_volume
from cnnres_infer.readers.dicom.choose import choose, choose_map
from cnnres_infer.readers.dicom.inspect import inspect
from cnnres_infer.readers.dicom.source import DicomSource
from cnnres_infer.readers.dicom.study import open_study
from cnnres_infer.readers.pick import Pick
from tests.fakes.dicom import REFERENCE, Scan, classic_images, ge, nothing, save, siemens, standard
from tests.readers.dicom.scans import ADC, B0, DIRECTIONS, FLAIR, TRACE, agrees, noise, read

PLAIN = B0.but(image_type=("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"))
OTHER_REFERENCE = "1.2.3.4"
LOCALIZER = B0.but(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
T1 = Scan(noise(9), B0.affine, kind="other", attributes={"RepetitionTime": "500"})


def dwi(number: int = 3, *scans: Scan) -> list[FileDataset]:
    return classic_images(scans or [B0, TRACE], siemens, number=number)


def adc(number: int = 4) -> list[FileDataset]:
    return classic_images([ADC], nothing, number=number, description="ep2d_diff_ADC")


def trace(number: int = 4) -> list[FileDataset]:
    return classic_images([TRACE], standard, number=number)


def b0(number: int = 5, scan: Scan = PLAIN) -> list[FileDataset]:
    return classic_images([scan], standard, number=number, description="b0")


def left_out(path: Path) -> list[str]:
    warnings = read(path).volume.warnings
    return [each.text for each in warnings if each.code == "W-DICOM-LEFT-OUT"]


def flair(number: int = 7, **attributes: str) -> list[FileDataset]:
    scan = FLAIR.but(attributes={**FLAIR.attributes, **attributes})
    return classic_images([scan], nothing, number=number, description="t2_dark")


def chosen(path: Path, pick: Pick | None = None, modality: Modality = Modality.DWI) -> list[str]:
    with open_study(path, DEFAULT_LIMITS) as study:
        found = choose(study, modality, pick or Pick())
    roles = (found.volume, found.flair, found.adc, found.b0)
    return ["" if each is None else str(each.series.image.number) for each in roles]


def refused(path: Path, pick: Pick | None = None, modality: Modality = Modality.DWI) -> InputError:
    with pytest.raises(InputError) as caught:
        chosen(path, pick, modality)
    return caught.value


def test_flair_adc_and_b0_are_taken_along(tmp_path: Path) -> None:
    t1 = classic_images([T1], nothing, number=5, description="t1")
    scout = classic_images([LOCALIZER], nothing, number=1, description="scout")
    save(tmp_path, scout, dwi(), adc(), t1, flair())
    assert chosen(tmp_path) == ["3", "7", "4", "3"]
    case = read(tmp_path)
    assert agrees(case.volume, TRACE)
    assert case.flair is not None
    assert agrees(case.flair, FLAIR)


def test_what_the_flair_is_recognised_by(tmp_path: Path) -> None:
    plain = FLAIR.but(attributes={})
    for number, description, attributes in (
        (11, "t2_tirm_tra_dark-fluid", {}),
        (12, "a", {"AcquisitionContrast": "FLUID_ATTENUATED"}),
        (13, "b", FLAIR.attributes),
    ):
        folder = tmp_path / str(number)
        scan = plain.but(attributes=attributes)
        save(folder, classic_images([scan], nothing, number=number, description=description))
        assert chosen(folder, modality=Modality.FLAIR)[0] == str(number)
    folder = save(tmp_path / "t2", classic_images([plain], nothing, description="t2_tse"))
    assert refused(folder, modality=Modality.FLAIR).code == "E-DICOM-SERIES"


def test_a_flair_of_another_frame_of_reference_is_not_fused(tmp_path: Path) -> None:
    save(tmp_path, dwi(), flair(FrameOfReferenceUID=OTHER_REFERENCE))
    error = refused(tmp_path)
    assert error.code == "E-DICOM-STUDY"
    assert "`series`" in str(error)
    assert chosen(tmp_path, Pick(("3",))) == ["3", "", "", "3"]


def test_two_frames_of_reference_in_a_series(tmp_path: Path) -> None:
    images = dwi()
    for image in images[::2]:
        image.FrameOfReferenceUID = OTHER_REFERENCE
    save(tmp_path, images)
    assert refused(tmp_path).code == "E-DICOM-STUDY"
    assert refused(tmp_path, Pick(("3",))).code == "E-DICOM-STUDY"


def test_two_patients(tmp_path: Path) -> None:
    images = adc()
    for image in images:
        image.PatientID = "B2"
    save(tmp_path, dwi(), images)
    assert refused(tmp_path).code == "E-DICOM-STUDY"


def test_the_nearest_b_value_and_then_the_trace(tmp_path: Path) -> None:
    far = TRACE.but(b=1400.0)
    save(tmp_path, dwi(3, B0, far), dwi(4, B0, *DIRECTIONS))
    assert chosen(tmp_path)[0] == "4"
    save(tmp_path, dwi(5, B0, TRACE))
    assert chosen(tmp_path)[0] == "5"


def test_a_trace_at_2500_is_refused_unless_asked_for(tmp_path: Path) -> None:
    far = TRACE.but(b=2500.0)
    save(tmp_path, dwi(3, B0, far))
    error = refused(tmp_path)
    assert error.code == "E-DICOM-BVALUE"
    assert "2500" in str(error)
    assert "`bvalue`" in str(error)
    assert chosen(tmp_path, Pick(b_value=2500))[0] == "3"
    assert refused(tmp_path, Pick(b_value=2000)).code == "E-DICOM-BVALUE"


def test_several_candidates_are_refused_with_their_list(tmp_path: Path) -> None:
    save(tmp_path, dwi(3), dwi(6))
    error = refused(tmp_path)
    assert error.code == "E-DICOM-SERIES"
    for each in ("series 3 (DWI)", "series 6 (DWI)", "`series`", "cnnres-infer inspect"):
        assert each in str(error)
    assert chosen(tmp_path, Pick(("6",)))[0] == "6"
    (uid,) = {image.SeriesInstanceUID for image in dwi(3)}
    assert chosen(tmp_path, Pick((uid,)))[0] == "3"


def test_several_flairs(tmp_path: Path) -> None:
    save(tmp_path, dwi(), flair(7), flair(8))
    assert chosen(tmp_path, Pick(flair=False))[:2] == ["3", ""]
    assert "several series could be the FLAIR" in str(refused(tmp_path))
    assert chosen(tmp_path, Pick(("3", "8")))[:2] == ["3", "8"]
    assert chosen(tmp_path, Pick(("3",)))[:2] == ["3", ""]


def test_a_sagittal_flair_yields_to_a_parallel_one(tmp_path: Path) -> None:
    sagittal = FLAIR.but(affine=FLAIR.affine[:, [2, 1, 0, 3]])
    save(tmp_path, dwi(), flair(7), classic_images([sagittal], nothing, number=9))
    assert chosen(tmp_path)[1] == "7"


def test_the_adc_map_of_the_same_acquisition(tmp_path: Path) -> None:
    images = dwi(3)
    moment = images[0].AcquisitionTime
    right, wrong = adc(4), adc(9)
    for image in right:
        image.AcquisitionTime = moment
    save(tmp_path, images, right, wrong)
    assert chosen(tmp_path)[2] == "4"


def test_an_adc_map_at_other_places_is_not_taken(tmp_path: Path) -> None:
    elsewhere = ADC.but(affine=ADC.affine @ np.diag([1, 1, 1.5, 1]))
    save(tmp_path, dwi(), classic_images([elsewhere], nothing, number=4))
    assert chosen(tmp_path)[2] == ""
    texts = [each.text for each in read(tmp_path).volume.warnings]
    assert "no ADC map was used: none lies where the DWI does, in its frame of reference" in texts


def test_a_damaged_adc_map_is_left_out_with_a_warning(tmp_path: Path) -> None:
    images = adc()
    for image in images:
        image.PixelData = image.PixelData[: len(image.PixelData) // 2]
    save(tmp_path, dwi(), images)
    case = read(tmp_path)
    assert agrees(case.volume, TRACE)
    (note,) = (each for each in case.volume.warnings if each.code == "W-DICOM-LEFT-OUT")
    assert note.text.startswith("ADC of series 4")
    assert str(tmp_path) not in note.text  # reports name no folders


@pytest.mark.parametrize("name", ["99", "x"])
def test_a_series_that_is_not_there(name: str, tmp_path: Path) -> None:
    save(tmp_path, dwi())
    error = refused(tmp_path, Pick((name,)))
    assert error.code == "E-DICOM-SERIES"
    assert "series 3 (DWI): DWI, b = 0, 1000 (trace)" in str(error)


def test_naming_a_series_decides_what_nothing_says(tmp_path: Path) -> None:
    save(tmp_path, classic_images([TRACE], nothing, number=3), adc())
    assert refused(tmp_path).code == "E-DICOM-SERIES"
    assert chosen(tmp_path, Pick(("3",)))[0] == "3"
    assert "is an ADC map" in str(refused(tmp_path, Pick(("4",))))


def test_a_case_knows_its_images(tmp_path: Path) -> None:
    images = dwi()
    save(tmp_path, images)
    source = read(tmp_path).volume.source
    assert isinstance(source, DicomSource)
    assert source.frame_of_reference == REFERENCE
    weighted = [image for image in images if image[0x0019, 0x100C].value == 1000]
    by_height = sorted(weighted, key=lambda image: float(image.ImagePositionPatient[2]))
    assert [layer[0].sop_instance for layer in source.slices] == [
        image.SOPInstanceUID for image in by_height
    ]


def test_the_table_of_a_study(tmp_path: Path) -> None:
    scout = classic_images([LOCALIZER], nothing, number=1, description="scout")
    save(tmp_path, scout, dwi(), adc(), flair())
    report = inspect(tmp_path)
    rows = {each.number: (each.what, each.why, each.used_as) for each in report.series}
    assert rows == {
        1: ("skipped", "localizer", ()),
        3: ("DWI, b = 0, 1000 (trace)", "b-value in Siemens (0019,100C)", ("volume", "b0")),
        4: ("ADC", "ImageType", ("ADC",)),
        7: ("FLAIR", "inversion time 2500 ms, echo time 110 ms", ("FLAIR",)),
    }
    assert report.error is None


def test_the_table_of_a_study_that_would_be_refused(tmp_path: Path) -> None:
    save(tmp_path, dwi(3), dwi(6))
    report = inspect(tmp_path)
    assert report.error is not None
    assert report.error.code == "E-DICOM-SERIES"
    assert [each.used_as for each in report.series] == [(), ()]
    assert inspect(tmp_path, pick=Pick(("3",))).error is None


def test_a_b0_in_a_series_of_its_own_is_taken_along(tmp_path: Path) -> None:
    save(tmp_path, trace(), b0())
    assert chosen(tmp_path) == chosen(tmp_path, Pick(("4",))) == ["4", "", "", "5"]
    case = read(tmp_path)
    assert case.b0 is not None
    assert agrees(case.b0, B0)
    assert case.b_value == 1000
    table = {each.number: (each.what, each.used_as) for each in inspect(tmp_path).series}
    assert table[5] == ("b0, b = 0", ("b0",))


def test_the_b0_of_the_series_itself_comes_first(tmp_path: Path) -> None:
    save(tmp_path, dwi(), b0())
    assert chosen(tmp_path) == ["3", "", "", "3"]
    with open_study(tmp_path, DEFAULT_LIMITS) as study:
        assert choose_map(study, Role.B0).series.image.number == 3


def test_the_b0_of_another_series_of_diffusion_comes_before_one_alone(tmp_path: Path) -> None:
    save(tmp_path, dwi(3, B0, *DIRECTIONS), trace(), b0())
    assert chosen(tmp_path) == ["4", "", "", "3"]


@pytest.mark.parametrize(
    "change",
    [
        {"affine": B0.affine @ np.diag([1, 1, 1.5, 1])},
        {"attributes": {"FrameOfReferenceUID": OTHER_REFERENCE}},
        {"attributes": {"StudyInstanceUID": "1.2.5"}},
    ],
)
def test_a_b0_from_elsewhere_is_left_out_with_a_warning(
    change: dict[str, Any], tmp_path: Path
) -> None:
    save(tmp_path, trace(), b0(5, PLAIN.but(**change)))
    assert chosen(tmp_path) == ["4", "", "", ""]
    (note,) = left_out(tmp_path)
    assert note.startswith("no b0 was used: none lies where the DWI does")


def test_of_several_b0_none_is_guessed(tmp_path: Path) -> None:
    save(tmp_path, trace(), b0(5), b0(6))
    assert chosen(tmp_path) == ["4", "", "", ""]
    assert left_out(tmp_path) == ["no b0 was used: several are at the places of the DWI"]


def test_an_image_is_no_b0_because_its_b_value_is_zero(tmp_path: Path) -> None:
    # Some scanners write a b-value into all images.
    save(tmp_path, trace(), b0(5, T1), b0(7, FLAIR))
    assert chosen(tmp_path) == ["4", "7", "", ""]
    assert left_out(tmp_path) == []
    assert [each.what for each in inspect(tmp_path).series][1:] == ["other", "FLAIR"]


def test_a_b0_that_is_given_needs_no_more_than_to_be_alone(tmp_path: Path) -> None:
    for number, (scan, coding) in enumerate(
        [(PLAIN, standard), (B0, standard), (B0, ge), (B0, nothing)]
    ):
        folder = save(tmp_path / str(number), classic_images([scan], coding, number=5))
        assert agrees(load_volume(folder, role=Role.B0), B0)
    for images in (trace(3), adc(4), flair(7)):
        folder = save(tmp_path / str(images[0].SeriesNumber) / "not", images)
        with pytest.raises(InputError, match="no series is recognised as b0") as caught:
            load_volume(folder, role=Role.B0)
        assert caught.value.code == "E-DICOM-SERIES"
        assert "`series`" not in str(caught.value), "that would choose the DWI"
    folder = save(tmp_path / "two", b0(5), b0(6))
    with pytest.raises(InputError, match="several series could be the b0"):
        load_volume(folder, role=Role.B0)


@pytest.mark.parametrize("b_value", [None, 1000.0])
def test_a_b0_is_not_segmented_as_dwi(b_value: float | None, tmp_path: Path) -> None:
    save(tmp_path, trace(), b0())
    error = refused(tmp_path, Pick(("5",), b_value))
    assert error.code == "E-DICOM-SERIES"
    assert "series 5 (b0) is not diffusion-weighted, at b = 0 s/mm2" in str(error)


def test_the_b_value_of_a_series_without_one_can_be_stated(tmp_path: Path) -> None:
    save(tmp_path, classic_images([TRACE], nothing, number=3), b0())
    case = load_case(tmp_path, pick=Pick(("3",)))
    assert case.b_value is None
    text = "the image without b-value of series 3 (DWI) was used"
    assert case.volume.warnings[0].text == text
    case = load_case(tmp_path, pick=Pick(("3",), 1600))
    assert case.b_value == 1600
    assert agrees(case.volume, TRACE)
    assert case.volume.warnings[0].text.startswith("the image, given as b = 1600 s/mm2, of series")
    assert [each.code for each in case.volume.warnings] == ["W-DICOM-SERIES", "W-INPUT-BVALUE"]
    with pytest.raises(UsageError, match="`bvalue` is 50"):
        load_case(tmp_path, pick=Pick(("3",), 50))
