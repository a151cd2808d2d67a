"""Which series and b-values of a study are taken, and when none is."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from cnnres_infer.core.case import Modality
from cnnres_infer.errors import InputError
from cnnres_infer.limits import DEFAULT_LIMITS
from cnnres_infer.readers.dicom.choose import choose
from cnnres_infer.readers.dicom.inspect import inspect
from cnnres_infer.readers.dicom.source import DicomSource
from cnnres_infer.readers.dicom.study import open_study
from cnnres_infer.readers.pick import Pick
from tests.fakes.dicom import REFERENCE, Scan, classic_images, nothing, save, siemens
from tests.readers.dicom.scans import ADC, B0, DIRECTIONS, FLAIR, TRACE, agrees, noise, read

OTHER_REFERENCE = "1.2.3.4"
LOCALIZER = B0.but(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
T1 = Scan(noise(9), B0.affine, kind="other", attributes={"RepetitionTime": "500"})


def dwi(number: int = 3, *scans: Scan) -> list[FileDataset]:
    return classic_images(scans or [B0, TRACE], siemens, number=number)


def adc(number: int = 4) -> list[FileDataset]:
    return classic_images([ADC], nothing, number=number, description="ep2d_diff_ADC")


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
