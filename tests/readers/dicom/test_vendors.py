"""Each vendor's coding of b-values, in classic, enhanced and mosaic images."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from cnnres_infer.errors import GeometryError, VolumeError
from cnnres_infer.readers.dicom.vendors import Directionality, b_value, directionality
from cnnres_infer.readers.dicom.views import View
from tests.fakes.dicom import (
    VENDORS,
    classic_images,
    csa,
    enhanced_image,
    ge,
    mosaic_images,
    nothing,
    philips,
    private,
    save,
    siemens,
    toshiba,
)
from tests.readers.dicom.scans import (
    ADC,
    B0,
    DIRECTIONS,
    TRACE,
    agrees,
    mean_of_directions,
    read,
)


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_trace_of_a_classic_series_that_holds_everything(vendor: str, tmp_path: Path) -> None:
    far = TRACE.but(data=TRACE.data // 2, b=2500.0)
    save(tmp_path, classic_images([B0, TRACE, far, *DIRECTIONS], VENDORS[vendor]))
    assert agrees(read(tmp_path).volume, TRACE)


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_geometric_mean_of_directions(vendor: str, tmp_path: Path) -> None:
    save(tmp_path, classic_images([B0, *DIRECTIONS], VENDORS[vendor]))
    volume = read(tmp_path).volume
    np.testing.assert_allclose(volume.data, mean_of_directions(), rtol=1e-6)
    assert "mean of directions at b = 1000" in volume.warnings[0].text


@pytest.mark.parametrize("vendor", ["siemens", "ge", "philips", "united"])
def test_implicit_private_attributes_of_unknown_vr(vendor: str, tmp_path: Path) -> None:
    for scan in (B0, TRACE):
        for image in classic_images([scan], VENDORS[vendor], syntax="1.2.840.10008.1.2"):
            for element in image:
                if element.tag.is_private and not element.tag.is_private_creator:
                    assert element.VR != "UN"
            save(tmp_path, [image])
    # Without the creators, pydicom knows no VR and hands out bytes.
    for file in (each for each in tmp_path.rglob("*") if each.is_file()):
        import pydicom

        image = pydicom.dcmread(file)
        for element in list(image):
            if element.tag.is_private_creator:
                del image[element.tag]
        image.save_as(file)
        again = pydicom.dcmread(file)
        private_ones = [each for each in again if each.tag.is_private]
        assert private_ones
        assert all(isinstance(each.value, bytes) for each in private_ones)
    assert agrees(read(tmp_path).volume, TRACE)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per frame"])
def test_an_enhanced_image_with_interleaved_frames(shared: bool, tmp_path: Path) -> None:
    far = TRACE.but(data=TRACE.data // 2, b=2500.0)
    scans = [B0, far, TRACE, *DIRECTIONS, ADC]
    order = np.random.default_rng(0).permutation(len(scans) * B0.data.shape[2])
    save(tmp_path, enhanced_image(scans, shared=shared, order=list(order)))
    case = read(tmp_path)
    assert agrees(case.volume, TRACE)


def test_a_single_enhanced_file(tmp_path: Path) -> None:
    save(tmp_path, enhanced_image([B0, TRACE]))
    (file,) = (each for each in tmp_path.rglob("*") if each.is_file())
    assert agrees(read(file).volume, TRACE)
    assert read(file).name == file.name


def test_an_enhanced_image_with_philips_private_groups(tmp_path: Path) -> None:
    save(tmp_path, enhanced_image([B0, TRACE, *DIRECTIONS], diffusion=philips))
    assert agrees(read(tmp_path).volume, TRACE)


def test_intensities_are_scaled_frame_by_frame(tmp_path: Path) -> None:
    scaled = TRACE.but(slope=0.25)
    save(tmp_path, enhanced_image([B0.but(slope=2.0), scaled]))
    assert agrees(read(tmp_path).volume, scaled)


@pytest.mark.parametrize("maker", ["siemens", "united"])
def test_a_mosaic(maker: str, tmp_path: Path) -> None:
    save(tmp_path, mosaic_images([B0, TRACE, *DIRECTIONS], maker=maker))
    assert agrees(read(tmp_path).volume, TRACE)


def test_a_mosaic_without_its_count_is_refused(tmp_path: Path) -> None:
    save(tmp_path, mosaic_images([B0, TRACE], count=False))
    with pytest.raises(GeometryError, match="the number of slices is missing"):
        read(tmp_path)


def test_b0_without_b_value(tmp_path: Path) -> None:
    save(tmp_path, classic_images([B0, TRACE], toshiba))
    assert agrees(read(tmp_path).volume, TRACE)


def test_an_isotropic_image_without_b_value_is_no_trace(tmp_path: Path) -> None:
    def isotropic_map(dataset: Dataset, b: float, kind: str) -> None:
        if kind == "trace":
            siemens(dataset, b, kind)
        else:
            private(dataset, 0x19, "SIEMENS MR HEADER", _0D=("CS", "ISOTROPIC"))

    lost = ADC.but(image_type=("DERIVED", "PRIMARY", "DIFFUSION", "NONE"))
    save(tmp_path, classic_images([lost, TRACE], isotropic_map))
    volume = read(tmp_path).volume
    assert agrees(volume, TRACE)
    assert "b0" not in volume.warnings[0].text


def test_a_b_tag_alone_makes_no_dwi(tmp_path: Path) -> None:
    save(tmp_path, classic_images([B0.but(kind="other")], ge, number=2, description="Ax T1"))
    with pytest.raises(VolumeError) as caught:
        read(tmp_path)
    assert caught.value.code == "E-DICOM-SERIES"
    assert "series 2 (Ax T1): other" in str(caught.value)


@pytest.mark.parametrize("word", ["ADC", "FA", "TENSOR_B0", "TENSOR", "EXP"])
def test_maps_are_no_dwi_whatever_their_b_value(word: str, tmp_path: Path) -> None:
    mapped = B0.but(
        data=ADC.data,
        b=1000.0,
        kind="trace",
        image_type=("DERIVED", "PRIMARY", "DIFFUSION", word),
    )
    save(tmp_path, classic_images([mapped, B0, TRACE], siemens))
    assert agrees(read(tmp_path).volume, TRACE)


@pytest.mark.parametrize("kind", ["trace", "direction"])
def test_siemens_own_header(kind: str, tmp_path: Path) -> None:
    def csa_only(dataset: Dataset, b: float, kind: str) -> None:
        stated = {"trace": "ISOTROPIC", "direction": "DIRECTIONAL"}.get(kind, "NONE")
        content = csa(B_value=[str(int(b))], DiffusionDirectionality=[stated])
        private(dataset, 0x29, "SIEMENS CSA HEADER", _10=("OB", content))

    diffusion = ("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND")
    scans = [each.but(image_type=diffusion) for each in (B0, TRACE.but(kind=kind))]
    save(tmp_path, classic_images(scans, csa_only))
    volume = read(tmp_path).volume
    assert agrees(volume, TRACE)
    assert ("trace" in volume.warnings[0].text) == (kind == "trace")


def test_the_quantity_of_an_adc_map(tmp_path: Path) -> None:
    def quantity(dataset: Dataset, b: float, kind: str) -> None:
        code, definition, mapping = Dataset(), Dataset(), Dataset()
        code.CodeValue = "113041"
        definition.ConceptCodeSequence = [code]
        mapping.QuantityDefinitionSequence = [definition]
        dataset.RealWorldValueMappingSequence = [mapping]

    lost = ADC.but(image_type=("DERIVED", "SECONDARY"))
    save(tmp_path, classic_images([B0, TRACE], siemens), classic_images([lost], quantity, number=9))
    case = read(tmp_path)
    assert case.adc is not None
    assert agrees(case.adc, ADC)


def test_values_that_mean_none() -> None:
    dataset = Dataset()
    private(dataset, 0x2001, "Philips Imaging DD 001", _03=("FL", 1.7e38))
    assert b_value(View(dataset)) is None
    ge(dataset, 800.0, "trace")
    assert b_value(View(dataset)) == (800.0, "GE (0043,1039)")
    assert directionality(View(dataset)) is Directionality.TRACE


def test_nothing_says_that_it_is_a_dwi(tmp_path: Path) -> None:
    """De-identified, with neither private attributes nor names of sequences."""
    series = classic_images([TRACE.but(image_type=("ORIGINAL", "PRIMARY", "DIFFUSION"))], nothing)
    save(tmp_path, series)
    with pytest.raises(VolumeError, match="no series is recognised as DWI"):
        read(tmp_path)
