"""The SR says what was found, what was rejected, and what to know about it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset

from cnnres_infer.core.result import Result
from tests.fakes.dicom import classic_images, enhanced_image, save
from tests.outputs.dicom.made import CHECKED, PROVENANCE, REJECTED, rendered, result_of, source_of
from tests.readers.dicom.scans import B0, SHAPE, TRACE, read


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    images = classic_images([B0, TRACE])
    return result_of(read(save(tmp_path_factory.mktemp("study"), images)))


def groups(report: Dataset) -> dict[str, Dataset]:
    """The groups of measurements by their tracking identifiers."""
    (measurements,) = named(report, "126010")
    return {str(one(each, "112039").TextValue): each for each in measurements.ContentSequence}


def named(item: Dataset, code: str) -> list[Dataset]:
    return [each for each in item.ContentSequence if concept(each.ConceptNameCodeSequence) == code]


def one(item: Dataset, code: str) -> Dataset:
    (found,) = named(item, code)
    return found


def concept(sequence: Any) -> str:
    return str(sequence[0].CodeValue)


def number(group: Dataset, code: str) -> tuple[float, str]:
    (value,) = one(group, code).MeasuredValueSequence
    return float(value.NumericValue), concept(value.MeasurementUnitsCodeSequence)


def rounded(value: float) -> float:
    return float(f"{value:.9g}")


def comments(group: Dataset) -> list[str]:
    return [str(each.TextValue) for each in named(group, "121106")]


def test_the_document(result: Result) -> None:
    report = rendered(result, "dicom-sr")
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.CompletionFlag == "COMPLETE"
    assert list(groups(report)) == [
        "Lesions",
        "Lesion 1",
        "Rejected lesion 1",
        "Agreement with PyTorch",
    ]


def test_the_whole_mask(result: Result) -> None:
    whole = groups(rendered(result, "dicom-sr"))["Lesions"]
    assert number(whole, "118565006") == (rounded(result.mask.volume_ml), "ml")
    assert number(whole, "246206008") == (1, "1")
    text = comments(whole)
    assert any("Research use only" in each for each in text)
    assert result.diffusion.note in text


def test_a_lesion_has_volume_adc_and_place(result: Result) -> None:
    report = rendered(result, "dicom-sr")
    found = groups(report)["Lesion 1"]
    (lesion,) = result.lesions
    assert number(found, "118565006") == (rounded(lesion.volume_ml), "ml")
    assert number(found, "113041") == (lesion.adc_mm2_s, "mm2/s")
    assert number(found, "RELATIVE-ADC") == (lesion.relative_adc, "1")
    assert number(found, "RESTRICTED-SHARE") == (lesion.restricted_share, "1")
    point = one(found, "111030")
    x, y, z = lesion.centre_mm
    np.testing.assert_allclose(point.GraphicData, [-x, -y, z], rtol=1e-6)
    assert point.GraphicType == "POINT"
    assert point.ReferencedFrameOfReferenceUID == source_of(result).frame_of_reference
    assert concept(one(found, "121071").ConceptCodeSequence) == "55641003"
    assert concept(one(found, "STATUS").ConceptCodeSequence) == "ACCEPTED"


def test_a_lesion_without_adc_says_nothing_of_it(result: Result) -> None:
    (lesion,) = result.lesions
    lesion = replace(lesion, adc_mm2_s=None, relative_adc=None, restricted_share=None)
    found = groups(rendered(replace(result, lesions=(lesion,)), "dicom-sr"))["Lesion 1"]
    for name in ("113041", "RELATIVE-ADC", "RESTRICTED-SHARE"):
        assert not named(found, name)


def test_what_was_rejected_and_why(result: Result) -> None:
    found = groups(rendered(result, "dicom-sr"))["Rejected lesion 1"]
    assert number(found, "118565006")[0] == REJECTED.volume_ml
    assert number(found, "RELATIVE-ADC")[0] == REJECTED.relative_adc
    assert number(found, "RESTRICTED-SHARE")[0] == REJECTED.restricted_share
    (status,) = one(found, "STATUS").ConceptCodeSequence
    assert status.CodeMeaning == "Rejected: diffusion is not restricted"
    assert concept(one(found, "121071").ConceptCodeSequence) != "55641003"


def test_warnings_are_told_without_the_name_of_the_case(result: Result) -> None:
    name = result.volume.name
    report = rendered(result, "dicom-sr")
    text = comments(groups(report)["Lesions"])
    assert "W-INPUT-SPACING: 9 mm" in text
    assert any(each.startswith("W-DICOM-SERIES: ") for each in text)
    assert name not in str(report)


def test_parity_figures(result: Result) -> None:
    found = groups(rendered(result, "dicom-sr"))["Agreement with PyTorch"]
    for code, figure in (
        ("DICE-MEAN", CHECKED.dice_mean),
        ("DICE-MIN", CHECKED.dice_min),
        ("DICE-POOLED", CHECKED.dice_pooled),
        ("PROB-DIFFERENCE", CHECKED.largest_difference),
        ("PARITY-SLICES", CHECKED.slices),
    ):
        assert number(found, code)[0] == figure
    assert concept(one(found, "PARITY").ConceptCodeSequence) == "PASSED"


def test_an_engine_that_was_not_checked(result: Result) -> None:
    unchecked = replace(result, provenance=replace(PROVENANCE, verification=None))
    found = groups(rendered(unchecked, "dicom-sr"))["Agreement with PyTorch"]
    assert concept(one(found, "PARITY").ConceptCodeSequence) == "UNCHECKED"
    assert not named(found, "DICE-MEAN")


def test_no_lesion_is_a_result(result: Result) -> None:
    empty = result_of(read(source_of(result).path), np.zeros(SHAPE, bool), rejected=(), warnings=())
    report = rendered(empty, "dicom-sr")
    found = groups(report)
    assert list(found) == ["Lesions", "Agreement with PyTorch"]
    whole = found["Lesions"]
    assert number(whole, "118565006")[0] == 0
    assert number(whole, "246206008")[0] == 0
    assert concept(one(whole, "STATUS").ConceptCodeSequence) == "NO-LESION"
    assert "No lesion was found." in comments(whole)


def evidence(report: FileDataset) -> dict[str, set[str]]:
    """UIDs of the instances in the evidence, by their series."""
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == report.StudyInstanceUID
    return {
        series.SeriesInstanceUID: {
            item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence
        }
        for series in study.ReferencedSeriesSequence
    }


@pytest.mark.parametrize("kind", ["dicom-seg", "dicom-labelmap"])
def test_the_segmentation_that_is_written_with_it_is_referred_to(kind: str, result: Result) -> None:
    seg = rendered(result, kind)
    report = rendered(result, "dicom-sr", kind)
    reference = one(groups(report)["Lesions"], "121191").ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == seg.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == seg.SOPClassUID
    assert reference.ReferencedSegmentNumber == 1
    assert evidence(report)[seg.SeriesInstanceUID] == {seg.SOPInstanceUID}


def test_a_segmentation_that_is_not_written_is_not_referred_to(result: Result) -> None:
    report = rendered(result, "dicom-sr")
    assert not named(groups(report)["Lesions"], "121191")
    assert list(evidence(report)) == [source_of(result).series]
    with_one = rendered(result, "dicom-sr", "dicom-seg")
    assert with_one.SOPInstanceUID != report.SOPInstanceUID


def test_all_source_images_are_evidence(tmp_path: Path) -> None:
    images = classic_images([B0, TRACE])
    report = rendered(result_of(read(save(tmp_path / "classic", images))), "dicom-sr")
    assert list(evidence(report).values()) == [{image.SOPInstanceUID for image in images}]
    whole = enhanced_image([B0, TRACE])
    report = rendered(result_of(read(save(tmp_path / "enhanced", whole))), "dicom-sr")
    assert list(evidence(report).values()) == [{whole.SOPInstanceUID}]


def test_codes_that_are_ours_are_declared(result: Result) -> None:
    report = rendered(result, "dicom-sr")
    (scheme,) = report.CodingSchemeIdentificationSequence
    designators = set(re.findall(r"99[A-Z]+", str(report)))
    assert designators == {scheme.CodingSchemeDesignator}


def test_highdicom_reads_it(result: Result) -> None:
    from highdicom import sr

    report = sr.Comprehensive3DSR.from_dataset(rendered(result, "dicom-sr", "dicom-seg"))
    assert len(report.content.get_volumetric_roi_measurement_groups()) == 1
    assert len(report.content.get_planar_roi_measurement_groups()) == 2
    assert len(report.content.get_image_measurement_groups()) == 1
