"""The SEG, read back by pydicom alone, is the mask voxel for voxel, on the source's frames."""

import itertools
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from cnnres_infer.core.case import Modality
from cnnres_infer.outputs.writers import WRITERS
from tests.conftest import oriented_affine
from tests.fakes.dicom import (
    Scan,
    classic_images,
    enhanced_image,
    ge,
    mosaic_images,
    philips,
    save,
    siemens,
)
from tests.outputs.dicom.made import (
    PROVENANCE,
    complaints,
    in_order,
    rendered,
    result_of,
    source_of,
    world_of_frames,
)
from tests.readers.dicom.scans import ADC, B0, DIRECTIONS, FLAIR, SHAPE, TRACE, noise, oblique, read

Layout = Callable[[Sequence[Scan]], list[FileDataset]]
SPACING = (1.8, 2.2, 5.5)
AFFINES = {
    "axial": oriented_affine((0, 1, 2), (-1, 1, 1), SPACING, shape=SHAPE),
    "flipped": oriented_affine((0, 1, 2), (1, -1, -1), SPACING, shape=SHAPE),
    "sagittal": oriented_affine((2, 0, 1), (1, 1, -1), SPACING, shape=SHAPE),
    "coronal": oriented_affine((0, 2, 1), (-1, 1, 1), SPACING, shape=SHAPE),
    "oblique": oblique(),
    "doubly oblique": oriented_affine(
        (0, 1, 2), (-1, 1, -1), SPACING, (0.21, -0.34, 0.13), shape=SHAPE
    ),
}
LAYOUTS: dict[str, Layout] = {
    "classic": lambda scans: classic_images(scans, ge),
    "enhanced": lambda scans: [enhanced_image(scans)],
    "enhanced, nothing shared": lambda scans: [enhanced_image(scans, shared=False)],
    "enhanced, Philips": lambda scans: [enhanced_image(scans, diffusion=philips)],
    "mosaic": mosaic_images,
    "VFRAME": lambda scans: mosaic_images(scans, maker="united"),
}


def scan_of(name: str) -> Scan:
    """A trace image, no two voxels of which are the same."""
    values = np.random.default_rng(1).permutation(math.prod(SHAPE)) + 1
    return Scan(values.reshape(SHAPE).astype(np.uint16), AFFINES[name], 1000.0, "trace")


def images_of(name: str, layout: str) -> list[FileDataset]:
    return LAYOUTS[layout]([Scan(noise(0), AFFINES[name]), scan_of(name)])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", AFFINES)
def test_each_voxel_lies_where_that_of_the_mask_does(
    name: str, layout: str, tmp_path: Path
) -> None:
    result = result_of(read(save(tmp_path, images_of(name, layout))))
    # Where the voxels lie is known from what was written, whatever the reader made of it.
    scan = scan_of(name)
    marked = np.isin(scan.data, result.volume.data[result.mask.data > 0])
    world = np.argwhere(marked) @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    ours = result.volume.grid.to_mm(np.argwhere(result.mask.data).astype(np.float64))
    filled = int(result.mask.data.any(axis=(0, 1)).sum())
    for kind in ("BINARY", "LABELMAP"):
        seg = rendered(result, {"BINARY": "dicom-seg", "LABELMAP": "dicom-labelmap"}[kind])
        found = in_order(world_of_frames(seg))
        np.testing.assert_allclose(found, in_order(world), rtol=0, atol=1e-4)
        np.testing.assert_allclose(found, in_order(ours), rtol=0, atol=1e-6)
        assert seg.FrameOfReferenceUID == source_of(result).frame_of_reference
        assert seg.SegmentationType == kind
        assert len(seg.PerFrameFunctionalGroupsSequence) == filled


@pytest.mark.parametrize("layout", [each for each in LAYOUTS if each not in ("mosaic", "VFRAME")])
@pytest.mark.parametrize("name", AFFINES)
def test_each_frame_has_the_pixels_of_the_one_that_it_refers_to(
    name: str, layout: str, tmp_path: Path
) -> None:
    images = images_of(name, layout)
    result = result_of(read(save(tmp_path, images)))
    seg = rendered(result, "dicom-seg")
    by_uid = {image.SOPInstanceUID: image for image in images}
    positions = set()
    pixels = seg.pixel_array
    for frame, item in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        (derivation,) = item.DerivationImageSequence
        (reference,) = derivation.SourceImageSequence
        image = by_uid[reference.ReferencedSOPInstanceUID]
        assert reference.ReferencedSOPClassUID == image.SOPClassUID
        assert reference.SpatialLocationsPreserved == "YES"
        place, stored = stated(image, reference.get("ReferencedFrameNumber"))
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        np.testing.assert_allclose(position, place, rtol=0, atol=1e-4)
        # The source's own pixels, inside of the mask: of the trace image, not of b0.
        inside = set(result.volume.data[result.mask.data > 0])
        assert set(stored[frame > 0]) <= inside
        positions.add(tuple(position))
    assert len(positions) == len(pixels)


def stated(image: FileDataset, number: Any) -> tuple[NDArray[np.float64], NDArray[np.uint16]]:
    """Position and pixels of a frame of a source, as its file states them."""
    pixels = np.frombuffer(image.PixelData, "<u2").reshape(-1, image.Rows, image.Columns)
    if "NumberOfFrames" not in image:
        assert number is None
        return np.array(image.ImagePositionPatient, float), pixels[0]
    group = image.PerFrameFunctionalGroupsSequence[number - 1]
    return np.array(group.PlanePositionSequence[0].ImagePositionPatient, float), pixels[number - 1]


def test_every_source_instance_is_referred_to(tmp_path: Path) -> None:
    dwi = classic_images([B0, TRACE, ADC], siemens, number=3)
    flair = classic_images([FLAIR], siemens, number=7, description="t2_flair")
    case = read(save(tmp_path, dwi, flair))
    assert case.flair is not None
    assert case.adc is not None
    seg = rendered(result_of(case), "dicom-seg")
    found = {
        (series.SeriesInstanceUID, item.ReferencedSOPInstanceUID)
        for series in seg.ReferencedSeriesSequence
        for item in series.ReferencedInstanceSequence
    }
    used = [image for image in (*dwi, *flair) if not is_b0(image)]
    assert found == {(image.SeriesInstanceUID, image.SOPInstanceUID) for image in used}
    assert {each.ReferencedSOPInstanceUID for each in seg.SourceImageSequence} == {
        image.SOPInstanceUID for image in dwi if "ADC" not in image.ImageType and not is_b0(image)
    }


def test_of_several_b_values_only_what_was_segmented_is_referred_to(tmp_path: Path) -> None:
    image = enhanced_image([B0, TRACE, ADC])
    seg = rendered(result_of(read(save(tmp_path, image))), "dicom-seg")
    numbers = {
        int(number)
        for element in seg.iterall()
        if element.keyword == "ReferencedFrameNumber"
        for number in np.atleast_1d(element.value)
    }
    groups = enumerate(image.PerFrameFunctionalGroupsSequence, 1)
    traces = {
        number
        for number, group in groups
        if "MRDiffusionSequence" in group
        and group.MRDiffusionSequence[0].DiffusionDirectionality == "ISOTROPIC"
    }
    assert numbers == traces


def is_b0(image: FileDataset) -> bool:
    return (
        "ADC" not in image.ImageType
        and image.get((0x19, 0x100C), None) is not None
        and (str(image[0x19, 0x100C].value) == "0" and image.SeriesNumber == 3)
    )


def test_a_mean_of_directions_refers_to_all_of_them(tmp_path: Path) -> None:
    image = enhanced_image([B0, *DIRECTIONS])
    result = result_of(read(save(tmp_path, image)))
    for item in rendered(result, "dicom-seg").PerFrameFunctionalGroupsSequence:
        (reference,) = item.DerivationImageSequence[0].SourceImageSequence
        z = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        assert len(reference.ReferencedFrameNumber) == 3
        for number in reference.ReferencedFrameNumber:
            place, _ = stated(image, number)
            np.testing.assert_allclose(place, z, rtol=0, atol=1e-4)
            group = image.PerFrameFunctionalGroupsSequence[number - 1]
            assert group.MRDiffusionSequence[0].DiffusionBValue == 1000


def test_a_mosaic_is_referred_to_as_a_whole(tmp_path: Path) -> None:
    images = mosaic_images([B0, TRACE])
    seg = rendered(result_of(read(save(tmp_path, images))), "dicom-seg")
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == images[0].SeriesInstanceUID
    found = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert found == {image.SOPInstanceUID for image in images}
    for item in seg.PerFrameFunctionalGroupsSequence:
        assert not item.DerivationImageSequence


def test_what_was_found_and_by_what(tmp_path: Path) -> None:
    result = result_of(read(save(tmp_path, classic_images([B0, TRACE]))))
    seg = rendered(result, "dicom-seg")
    (segment,) = seg.SegmentSequence
    assert code(segment.SegmentedPropertyCategoryCodeSequence) == ("49755003", "SCT")
    assert code(segment.SegmentedPropertyTypeCodeSequence) == ("55641003", "SCT")
    assert code(segment.AnatomicRegionSequence) == ("12738006", "SCT")
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("bright", "1.0")
    assert PROVENANCE.bundle_sha256 in algorithm.AlgorithmParameters
    assert segment.SegmentAlgorithmType == "AUTOMATIC"


def test_a_flair_alone_shows_lesions_of_any_kind(tmp_path: Path) -> None:
    case = read(save(tmp_path, classic_images([FLAIR])), Modality.FLAIR)
    only = replace(PROVENANCE, inputs={"flair": "x"})
    seg = rendered(result_of(case, provenance=only), "dicom-seg")
    assert code(seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence) == ("301766008", "SCT")


def code(sequence: Any) -> tuple[str, str]:
    (item,) = sequence
    return item.CodeValue, item.CodingSchemeDesignator


def test_an_empty_mask_has_no_segmentation(tmp_path: Path) -> None:
    empty = result_of(read(save(tmp_path, classic_images([B0, TRACE]))), np.zeros(SHAPE, bool))
    for name in ("dicom-seg", "dicom-labelmap"):
        assert "the mask is empty" in WRITERS[name].omission(empty)
    for name in ("dicom-sr", "dicom-sc"):
        assert WRITERS[name].omission(empty) == ""


def test_orientations_that_differ_in_the_eighth_digit(tmp_path: Path) -> None:
    images = classic_images([B0, TRACE], ge)
    for image in images[::2]:
        first = float(image.ImageOrientationPatient[0]) + 3e-8
        image.ImageOrientationPatient = [f"{first:.10f}", *image.ImageOrientationPatient[1:]]
    result = result_of(read(save(tmp_path, images)))
    ours = result.volume.grid.to_mm(np.argwhere(result.mask.data).astype(np.float64))
    found = world_of_frames(rendered(result, "dicom-seg"))
    np.testing.assert_allclose(in_order(found), in_order(ours), rtol=0, atol=1e-6)


def test_a_single_lesion_voxel(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[3, 4, 5] = True
    result = result_of(read(save(tmp_path, classic_images([B0, TRACE]))), mask)
    seg = rendered(result, "dicom-seg")
    expected = result.volume.grid.to_mm(np.array([3.0, 4.0, 5.0]))
    np.testing.assert_allclose(world_of_frames(seg), [expected], rtol=0, atol=1e-6)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("empty", [False, True], ids=["lesions", "no lesion"])
def test_dciodvfy_accepts_what_is_written(layout: str, empty: bool, tmp_path: Path) -> None:
    case = read(save(tmp_path / "in", images_of("oblique", layout)))
    result = result_of(case, np.zeros(case.volume.grid.shape, bool) if empty else None)
    wanted = ("dicom-seg", "dicom-sr", "dicom-sc")
    saved = result.save(tmp_path / "out", wanted)
    assert set(saved.paths) == set(wanted[1:] if empty else wanted)
    for path in saved.paths.values():
        assert complaints(path) == []


def test_dimensions_are_named_by_the_same_uid(tmp_path: Path) -> None:
    seg = rendered(result_of(read(save(tmp_path, classic_images([B0, TRACE])))), "dicom-seg")
    organizations = {
        each.DimensionOrganizationUID
        for each in itertools.chain(seg.DimensionIndexSequence, seg.DimensionOrganizationSequence)
    }
    assert len(organizations) == 1
    assert organizations.pop().startswith("2.25.")


def test_what_is_compressed_with_loss_is_marked_so(tmp_path: Path) -> None:
    images = classic_images([B0, TRACE])
    for image in images:
        image.LossyImageCompression, image.LossyImageCompressionRatio = "01", "12.5"
        image.LossyImageCompressionMethod = "ISO_10918_1"
    seg = rendered(result_of(read(save(tmp_path, images))), "dicom-seg")
    assert seg.LossyImageCompression == "01"
    assert float(seg.LossyImageCompressionRatio) == 12.5


def test_highdicom_reads_both_kinds_alike(tmp_path: Path) -> None:
    import highdicom

    result = result_of(read(save(tmp_path, classic_images([B0, TRACE]))))
    volumes = []
    for name in ("dicom-seg", "dicom-labelmap"):
        seg = highdicom.seg.Segmentation.from_dataset(rendered(result, name))
        volumes.append(seg.get_volume(combine_segments=True))
    np.testing.assert_array_equal(volumes[0].array, volumes[1].array)
    assert volumes[0].array.sum() == result.mask.data.sum()
    assert rendered(result, "dicom-labelmap").SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
