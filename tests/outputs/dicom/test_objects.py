"""What all DICOM outputs have in common: whose they are, what made them, and the same bytes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset

from cnnres_infer import __version__
from cnnres_infer.core.result import Result
from cnnres_infer.outputs.dicom.objects import description
from cnnres_infer.outputs.writers import WRITERS
from tests.fakes.dicom import classic_images, enhanced_image, save
from tests.outputs.dicom.made import CHECKED, PROVENANCE, rendered, result_of, source_of
from tests.readers.dicom.scans import B0, TRACE, read

NAMES = ("dicom-seg", "dicom-labelmap", "dicom-sr", "dicom-sc")
EVERY = pytest.mark.parametrize("name", NAMES)


def made(folder: Path, **attributes: Any) -> Result:
    """A result of a series with some attributes; those that are None are missing."""
    images = classic_images([B0, TRACE])
    for image in images:
        for keyword, value in attributes.items():
            if value is None and keyword in image:
                delattr(image, keyword)
            elif value is not None:
                setattr(image, keyword, value)
    return result_of(read(save(folder, images)))


def elements(dataset: Dataset) -> Iterator[Any]:
    yield from dataset.iterall()


@EVERY
def test_the_same_again_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    first, again = (WRITERS[name].render(made(tmp_path / "in")) for _ in range(2))
    assert first == again
    renamed = result_of(read((tmp_path / "in").rename(tmp_path / "other")))
    assert WRITERS[name].render(renamed) == first


@EVERY
def test_warnings_name_no_folder(name: str, tmp_path: Path) -> None:
    (damaged,) = classic_images([TRACE.but(slices=[0])], number=8, description="other")
    damaged.Rows = 0
    study = save(tmp_path / "Doe^Jane", classic_images([B0, TRACE]), damaged)
    result = result_of(read(study))
    (note,) = (each.text for each in result.warnings if each.code == "W-DICOM-LEFT-OUT")
    assert note.startswith("series 8 (other) cannot be used: 8/")
    content = WRITERS[name].render(result)
    assert b"Doe^Jane" not in content
    assert WRITERS[name].render(result_of(read(study.rename(tmp_path / "x")))) == content


@EVERY
def test_when_and_how_fast_it_was_computed_changes_nothing(name: str, tmp_path: Path) -> None:
    result = made(tmp_path)
    later = replace(CHECKED, when="2027-01-01T00:00:00", cached=True, key="other")
    other = replace(
        result,
        timings={"read": 9.0},
        peak_memory_mb=7.0,
        provenance=replace(
            PROVENANCE, verification=later, engine=replace(PROVENANCE.engine, threads=64)
        ),
    )
    assert WRITERS[name].render(other) == WRITERS[name].render(result)


def changed(result: Result, what: str) -> Result:
    mask = result.mask.data > 0
    mask[tuple(np.argwhere(mask)[0])] = False
    engine = replace(PROVENANCE.engine, backend="openvino")
    (lesion,) = result.lesions
    return {
        "mask": lambda: replace(result, mask=replace(result.mask, data=mask.astype(np.uint8))),
        "bundle": lambda: replace(result, provenance=replace(PROVENANCE, bundle_sha256="cd" * 32)),
        "engine": lambda: replace(result, provenance=replace(PROVENANCE, engine=engine)),
        "warning": lambda: replace(result, warnings=()),
        "rejected": lambda: replace(result, rejected_mask=result.mask),
        "brain": lambda: replace(result, brain=result.mask),
        "adc": lambda: replace(result, lesions=(replace(lesion, relative_adc=0.5),)),
        "parity": lambda: replace(result, provenance=replace(PROVENANCE, verification=None)),
    }[what]()


@EVERY
@pytest.mark.parametrize("what", ["mask", "bundle", "engine"])
def test_another_result_has_other_series(name: str, what: str, tmp_path: Path) -> None:
    result = made(tmp_path)
    first, second = rendered(result, name), rendered(changed(result, what), name)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID


@EVERY
@pytest.mark.parametrize("what", ["warning", "rejected", "brain", "adc", "parity"])
def test_objects_are_the_same_if_and_only_if_their_bytes_are(
    name: str, what: str, tmp_path: Path
) -> None:
    first = made(tmp_path)
    second = changed(first, what)
    same = rendered(first, name).SOPInstanceUID == rendered(second, name).SOPInstanceUID
    assert same == (WRITERS[name].render(first) == WRITERS[name].render(second))
    pictured = ("dicom-sc",)
    holders = {"rejected": pictured, "brain": pictured, "warning": ("dicom-sr", "dicom-sc")}
    assert same == (name not in holders.get(what, ("dicom-sr",)))


def test_uids_are_valid_and_all_different(tmp_path: Path) -> None:
    result = made(tmp_path)
    objects = [rendered(result, name) for name in NAMES]
    uids = [uid for each in objects for uid in (each.SOPInstanceUID, each.SeriesInstanceUID)]
    assert len(set(uids)) == 2 * len(NAMES)
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids)
    for each in objects:
        assert each.StudyInstanceUID == source_of(result).study
        assert each.file_meta.MediaStorageSOPInstanceUID == each.SOPInstanceUID


@EVERY
def test_times_are_those_of_the_acquisition(name: str, tmp_path: Path) -> None:
    times = {"AcquisitionDate": "20240229", "AcquisitionTime": "134501.25"}
    dataset = rendered(made(tmp_path, **times), name)
    assert (dataset.ContentDate, dataset.ContentTime) == ("20240229", "134501.25")
    assert (dataset.SeriesDate, dataset.SeriesTime) == ("20240229", "134501.25")
    known = {"20240229", "134501.25", ""}
    found = {
        str(each.value)
        for each in elements(dataset)
        if each.VR in ("DA", "TM", "DT") and each.value is not None
    }
    assert found <= known


@EVERY
@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"AcquisitionDateTime": "20250102030405.5+0100"}, ("20250102", "030405.5")),
        ({"AcquisitionDate": None, "StudyDate": "20230405"}, ("20230405", "000000")),
        ({"AcquisitionDate": None, "AcquisitionTime": None}, ("19000101", "000000")),
        ({"AcquisitionDate": "2023.04.05", "SeriesDate": "20230406"}, ("20230406", "000000")),
    ],
)
def test_other_times_stand_in(
    name: str, attributes: dict[str, Any], expected: tuple[str, str], tmp_path: Path
) -> None:
    with pydicom.config.disable_value_validation():
        dataset = rendered(made(tmp_path, **attributes), name)
    assert (dataset.ContentDate, dataset.ContentTime) == expected


@EVERY
def test_series_have_numbers_that_the_study_does_not_have(name: str, tmp_path: Path) -> None:
    alone = rendered(made(tmp_path / "alone"), name)
    taken = save(
        tmp_path / "taken",
        classic_images([B0, TRACE]),
        *(
            classic_images([B0], number=number, description=f"{number}")
            for number in (9001, 9002, 9003, 9004, 9011)
        ),
    )
    numbers = {9001, 9002, 9003, 9004, 9011, 3}
    dataset = rendered(result_of(read(taken)), name)
    assert dataset.SeriesNumber not in numbers
    assert alone.SeriesNumber not in {3}
    # What differs has other UIDs, and the number does.
    assert alone.SeriesInstanceUID != dataset.SeriesInstanceUID
    assert alone.SOPInstanceUID != dataset.SOPInstanceUID


@EVERY
def test_outputs_within_the_study_change_nothing(name: str, tmp_path: Path) -> None:
    first = made(tmp_path)
    content = WRITERS[name].render(first)
    for each in NAMES:
        (tmp_path / f"{each}.dcm").write_bytes(WRITERS[each].render(first))
    assert WRITERS[name].render(result_of(read(tmp_path))) == content


@EVERY
def test_descriptions_say_what_they_must_not_be_used_for(name: str, tmp_path: Path) -> None:
    text = rendered(made(tmp_path), name).SeriesDescription
    assert text.endswith("RESEARCH USE ONLY")
    assert len(text) <= 64


def test_long_descriptions_are_cut() -> None:
    assert description("x" * 100).endswith("RESEARCH USE ONLY")
    assert len(description("x" * 100)) == 64


@EVERY
def test_equipment(name: str, tmp_path: Path) -> None:
    dataset = rendered(
        made(
            tmp_path,
            Manufacturer="SIEMENS",
            ManufacturerModelName="Prisma",
            SoftwareVersions=["syngo", "XA30"],
            InstitutionName="Hospital",
            StationName="MR1",
            DeviceSerialNumber="4711",
            OperatorsName="Some^One",
            PerformingPhysicianName="Doc^Tor",
            InstitutionAddress="Street 1",
        ),
        name,
    )
    assert dataset.Manufacturer == "cnnres-infer"
    assert dataset.ManufacturerModelName == "bright"
    assert dataset.DeviceSerialNumber == PROVENANCE.bundle_sha256
    assert list(dataset.SoftwareVersions) == [f"cnnres-infer {__version__}", "bright 1.0"]
    scanner, ours = dataset.ContributingEquipmentSequence
    assert (scanner.Manufacturer, scanner.ManufacturerModelName) == ("SIEMENS", "Prisma")
    assert list(scanner.SoftwareVersions) == ["syngo", "XA30"]
    assert [each.PurposeOfReferenceCodeSequence[0].CodeValue for each in (scanner, ours)] == [
        "109101",
        "109102",
    ]
    assert PROVENANCE.bundle_sha256 in ours.ContributionDescription
    text = str(dataset)
    for each in ("Hospital", "MR1", "4711", "Some^One", "Doc^Tor", "Street 1"):
        assert each not in text


PATIENT = {
    "PatientName": "Doe^Jane",
    "PatientID": "4712",
    "PatientBirthDate": "19500101",
    "PatientSex": "F",
    "StudyDate": "20260102",
    "StudyTime": "101112",
    "StudyID": "S1",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "Ref^Erring",
}


@EVERY
@pytest.mark.parametrize("missing", ["PatientName", "StudyDate", "all"])
def test_what_the_source_lacks_is_empty(name: str, missing: str, tmp_path: Path) -> None:
    given: dict[str, Any] = dict(PATIENT)
    lacking = list(PATIENT) if missing == "all" else [missing]
    for keyword in lacking:
        given[keyword] = None
    dataset = rendered(made(tmp_path, **given), name)
    for keyword, value in PATIENT.items():
        assert str(dataset[keyword].value or "") == ("" if keyword in lacking else value)


@EVERY
def test_what_no_object_may_have_is_left_out(name: str, tmp_path: Path) -> None:
    wrong = {"PatientSex": "U", "PatientBirthDate": "unknown", "StudyTime": "9:30"}
    with pydicom.config.disable_value_validation():
        dataset = rendered(made(tmp_path, **wrong), name)
    for keyword in wrong:
        assert not dataset[keyword].value


@EVERY
@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("ISO_IR 100", "Müller^Jürgen"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_names_of_any_character_set(name: str, charset: Any, text: str, tmp_path: Path) -> None:
    result = made(tmp_path, SpecificCharacterSet=charset, PatientName=text)
    content = WRITERS[name].render(result)
    assert text.encode() in content
    dataset = rendered(result, name)
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert str(dataset.PatientName) == text


@EVERY
def test_without_a_frame_of_reference_nothing_is_invented(name: str, tmp_path: Path) -> None:
    result = made(tmp_path, FrameOfReferenceUID=None)
    assert "frame of reference" in WRITERS[name].omission(result)
    saved = result.save(tmp_path / "out", (name, "report", "mask"))
    assert list(saved.paths) == ["report", "mask"]
    assert list(saved.omitted) == [name]
    assert "frame of reference" in saved["report"].read_text()


@EVERY
def test_of_an_array_there_is_nothing_to_derive_from(name: str, tmp_path: Path) -> None:
    result = made(tmp_path)
    array = replace(result, volume=replace(result.volume, source=None))
    assert "not read from DICOM" in WRITERS[name].omission(array)


@EVERY
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SOPInstanceUID"])
def test_images_that_cannot_be_referred_to(name: str, keyword: str, tmp_path: Path) -> None:
    image = enhanced_image([B0, TRACE])
    delattr(image, keyword)
    path = save_as(tmp_path / "a.dcm", image)
    assert "refer to" in WRITERS[name].omission(result_of(read(path)))


def save_as(path: Path, image: FileDataset) -> Path:
    image.save_as(path)
    return path


@EVERY
def test_a_companion_that_cannot_be_referred_to_is_left_out(name: str, tmp_path: Path) -> None:
    result = made(tmp_path)
    source = source_of(result)
    nameless = replace(source, study="", series="1.2.3.4")
    dataset = rendered(replace(result, sources=(source, nameless)), name)
    assert "1.2.3.4" not in str(dataset)


@EVERY
def test_no_object_is_made_of_another_study(name: str, tmp_path: Path) -> None:
    """Sources of other studies are listed as such."""
    result = made(tmp_path)
    source = source_of(result)
    elsewhere = replace(source, study="1.2.3", series="1.2.3.4")
    dataset = rendered(replace(result, sources=(source, elsewhere)), name)
    assert dataset.StudyInstanceUID == source.study
    keyword = {
        "dicom-sr": "PertinentOtherEvidenceSequence",
        "dicom-sc": "",
    }.get(name, "StudiesContainingOtherReferencedInstancesSequence")
    if keyword:
        (other,) = dataset[keyword].value
        assert other.StudyInstanceUID == "1.2.3"
        assert other.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.4"
