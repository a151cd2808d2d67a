import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from cnnres_infer import Limits, Predictor
from cnnres_infer import predictor as flow
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.codes import Notice
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.volume import Volume
from cnnres_infer.engines.base import Engine, run_checked
from cnnres_infer.errors import GeometryError, LimitError, UsageError, VolumeError
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.readers.nifti.write import save_volume
from cnnres_infer.verification.agreement import dice
from tests.conftest import ORIENTATIONS, BundleMaker, blob_volume, oriented_affine, phantom_volume


@pytest.fixture(scope="module")
def predictor(bright_bundle: Path) -> Predictor:
    return Predictor.load(bright_bundle, threads=1)


def test_a_known_lesion_is_found_at_its_position(predictor: Predictor) -> None:
    volume, ball = blob_volume()
    result = predictor.predict(volume)
    assert dice(result.mask.data > 0, ball) > 0.9
    assert len(result.lesions) == 1
    assert np.linalg.norm(np.array(result.lesions[0].centre_mm) - (20.0, 10.0, 5.0)) < 2.5
    assert result.mask.grid is volume.grid
    assert result.provenance.brain == "stripped"
    assert set(result.timings) >= {"read", "brain", "slices", "engine", "mask"}
    assert result.warnings == ()


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_the_lesion_is_found_in_all_48_orientations(
    predictor: Predictor, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    shape, spacing = np.zeros(3, int), np.zeros(3)
    for world, (n, step) in enumerate(zip((60, 70, 20), (2.5, 2.5, 5.0), strict=True)):
        shape[order[world]], spacing[order[world]] = n, step
    extent = (int(shape[0]), int(shape[1]), int(shape[2]))
    affine = oriented_affine(
        order, signs, (spacing[0], spacing[1], spacing[2]), (0.05, -0.1, 0.08), extent
    )
    volume, ball = blob_volume(extent, affine)
    mask = predictor.predict(volume).mask
    assert mask.data.shape == extent
    assert dice(mask.data > 0, ball) > 0.88


def test_path_image_and_array_agree(predictor: Predictor, tmp_path: Path) -> None:
    volume, _ = blob_volume()
    path = tmp_path / "dwi.nii.gz"
    save_volume(path, volume.data, volume.grid)
    from_path = predictor.predict(path)
    from_image = predictor.predict(nibabel.load(path))
    from_array = predictor.predict(volume.data, affine=volume.grid.affine)
    assert from_path.mask.data.any()
    assert np.array_equal(from_path.mask.data, from_image.mask.data)
    assert np.array_equal(from_path.mask.data, from_array.mask.data)
    assert from_path.provenance.inputs == {"dwi": "dwi"}


def test_an_array_needs_its_affine(predictor: Predictor) -> None:
    with pytest.raises(VolumeError, match="affine"):
        predictor.predict(blob_volume()[0].data)


def test_an_empty_mask_gives_a_warning(predictor: Predictor) -> None:
    volume, _ = blob_volume(radius_mm=0.1)
    result = predictor.predict(volume)
    assert not result.mask.data.any()
    assert any("no lesion" in str(warning) for warning in result.warnings)


def test_a_brain_larger_than_the_images_gives_a_warning(predictor: Predictor) -> None:
    shape = (60, 70, 20)
    affine = oriented_affine((0, 1, 2), (-1, 1, 1), (2.5, 2.5, 5.0), shape=shape)
    volume, _ = blob_volume(shape, affine)
    wide = Volume(volume.data, type(volume.grid)(shape, affine * [[1.6], [1.6], [1], [1]]))
    assert any("field of view" in str(warning) for warning in predictor.predict(wide).warnings)


def test_a_flair_on_another_grid_is_used(make_bundle: BundleMaker) -> None:
    dwi, ball = blob_volume(radius_mm=0.1)
    ball = blob_volume()[1]
    shape = (80, 90, 28)
    affine = oriented_affine((0, 1, 2), (1, 1, 1), (2.0, 2.0, 4.0), (0.1, 0.0, 0.0), shape)
    flair, _ = blob_volume(shape, affine)
    always = make_bundle(fusion={"rule": "max", "dwi_weight": 0.5})
    with Predictor.load(always) as predictor:
        result = predictor.predict(dwi, flair=flair)
    assert dice(result.mask.data > 0, ball) > 0.7
    assert result.mask.grid is dwi.grid
    assert any("resampled" in str(warning) for warning in result.warnings)
    never = make_bundle(fusion={"rule": "dwi", "dwi_weight": 1.0})
    with Predictor.load(never) as predictor:
        assert not predictor.predict(dwi, flair=flair).mask.data.any()


def test_only_the_dwi_is_used_where_there_is_no_flair(make_bundle: BundleMaker) -> None:
    dwi, ball = blob_volume()
    half = dwi.data[:, :, :8].copy()
    low = Volume(half, type(dwi.grid)((60, 70, 8), dwi.grid.affine), "flair")
    with Predictor.load(make_bundle(fusion={"rule": "mean", "dwi_weight": 0.0})) as predictor:
        result = predictor.predict(dwi, flair=low)
    assert dice(result.mask.data[:, :, 10:] > 0, ball[:, :, 10:]) > 0.85
    assert any("has no FLAIR" in str(warning) for warning in result.warnings)


def test_each_modality_loses_its_shading_or_keeps_it(make_bundle: BundleMaker) -> None:
    volume, _ = blob_volume()
    gain = np.linspace(0.6, 1.4, volume.data.shape[0], dtype=np.float32)[:, None, None]
    shaded = replace(volume, data=volume.data * gain)
    found = {}
    for shading in ("none", "removed", "removed from dwi"):
        image = {"channels": 1, "modalities": ["dwi", "flair"], "size": 160, "spacing_mm": 1.25}
        folder = make_bundle(input={**image, "ceiling": 2.0, "shading": shading})
        with Predictor.load(folder) as predictor:
            found[shading] = [
                predictor.predict(shaded, modality=modality).probabilities.data
                for modality in ("dwi", "flair")
            ]
    assert np.array_equal(found["removed from dwi"][0], found["removed"][0])
    assert np.array_equal(found["removed from dwi"][1], found["none"][1])
    assert not np.array_equal(found["removed"][0], found["none"][0])


def test_a_network_of_two_channels(make_bundle: BundleMaker) -> None:
    dwi, ball = blob_volume()
    with Predictor.load(make_bundle(channels=2)) as predictor:
        flair = replace(dwi, data=2 * dwi.data)
        assert dice(predictor.predict(dwi, flair=flair).mask.data > 0, ball) > 0.9
        plain, _ = blob_volume(radius_mm=0.1)
        assert not predictor.predict(dwi, flair=plain).mask.data.any()
        with pytest.raises(UsageError, match="`flair`"):
            predictor.predict(dwi)


def test_a_given_brain_mask_is_used(predictor: Predictor) -> None:
    volume, ball = blob_volume()
    brain = Volume(((volume.data > 0) & ~ball).astype(np.float32), volume.grid, "brain")
    result = predictor.predict(volume, brain_mask=brain)
    assert result.provenance.brain == "given"
    assert not result.mask.data.any()
    other = Volume(brain.data[:-1].copy(), type(volume.grid)((59, 70, 20), volume.grid.affine))
    with pytest.raises(GeometryError, match="grid"):
        predictor.predict(volume, brain_mask=other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "ct"}, "choose from dwi, flair"),
        ({"modality": "flair", "flair": blob_volume()[0]}, "DWI first"),
    ],
)
def test_contradictory_arguments_are_refused(
    predictor: Predictor, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        predictor.predict(blob_volume()[0], **options)  # type: ignore[arg-type]


def test_a_modality_that_the_model_does_not_support_is_refused(make_bundle: BundleMaker) -> None:
    image = {"channels": 1, "modalities": ["dwi"], "size": 160, "spacing_mm": 1.25, "ceiling": 2.0}
    with Predictor.load(make_bundle(input=image)) as predictor:
        with pytest.raises(UsageError, match="supports only dwi"):
            predictor.predict(blob_volume()[0], modality="flair")
        with pytest.raises(UsageError, match="supports only dwi"):
            predictor.predict(blob_volume()[0], flair=blob_volume()[0])


def test_the_input_is_not_modified(predictor: Predictor) -> None:
    volume, _ = blob_volume()
    data, affine = volume.data.copy(), volume.grid.affine.copy()
    before = data.copy()
    result = predictor.predict(data, affine=affine)
    assert np.array_equal(data, before)
    with pytest.raises(ValueError, match="read-only"):
        result.mask.data[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        result.volume.grid.affine[0, 0] = 1


def test_the_result_names_the_variant_that_ran(bright_bundle: Path) -> None:
    assert "fp32-cpu" not in Bundle.open(bright_bundle).variants
    volume = phantom_volume(make_phantom(shape=(64, 64, 4), spacing=(3.0, 3.0, 12.0)))
    with Predictor.load(bright_bundle, "ort", "fp32", self_check=False) as predictor:
        assert predictor.predict(volume).provenance.engine.variant == "fp32"
    with Predictor.load(None, "ort", "fp32", self_check=False) as predictor:
        assert predictor.predict(volume).provenance.engine.variant == "fp32-cpu"


@pytest.mark.parametrize(
    "beside",
    [
        {"flair": "missing.nii"},
        {"brain_mask": "missing.nii"},
        {"modality": "flair"},
        {"affine": np.eye(4)},
    ],
)
def test_a_case_is_given_alone(predictor: Predictor, beside: dict[str, Any]) -> None:
    case = Case(Modality.DWI, blob_volume()[0])
    assert predictor.predict(case).mask.data.any()
    with pytest.raises(UsageError, match=f"leave out {next(iter(beside))}="):
        predictor.predict(case, **beside)


def test_an_affine_is_given_once(predictor: Predictor) -> None:
    volume, _ = blob_volume()
    with pytest.raises(UsageError, match="leave out affine="):
        predictor.predict(volume, affine=np.eye(4))
    with pytest.raises(UsageError, match="give one"):
        predictor.predict((volume.data, volume.grid.affine), affine=np.eye(4))


def test_an_affine_that_contradicts_the_file_is_refused(
    predictor: Predictor, tmp_path: Path
) -> None:
    volume, _ = blob_volume()
    path = tmp_path / "dwi.nii.gz"
    save_volume(path, volume.data, volume.grid)
    moved = volume.grid.affine.copy()
    moved[0, 3] += 10
    for source in (path, nibabel.load(path)):
        assert predictor.predict(source, affine=volume.grid.affine).mask.data.any()
        with pytest.raises(UsageError, match="says itself where it lies"):
            predictor.predict(source, affine=moved)


def test_series_are_a_list(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a list"):
        predictor.predict(tmp_path, series="12")


def test_arrays_have_affines_of_their_own(make_bundle: BundleMaker) -> None:
    """A FLAIR on another grid than the DWI's is not misplaced by the DWI's affine."""
    dwi, _ = blob_volume(radius_mm=0.1)
    shape = (80, 90, 28)
    affine = oriented_affine((0, 1, 2), (1, 1, 1), (2.0, 2.0, 4.0), (0.1, 0.0, 0.0), shape)
    flair, _ = blob_volume(shape, affine)
    pairs = [(volume.data, volume.grid.affine) for volume in (dwi, flair)]
    with Predictor.load(make_bundle(fusion={"rule": "max", "dwi_weight": 0.5})) as predictor:
        result = predictor.predict(pairs[0], flair=pairs[1])
        assert dice(result.mask.data > 0, blob_volume()[1]) > 0.7
        with pytest.raises(VolumeError, match="affine"):
            predictor.predict(pairs[0], flair=flair.data)


def test_the_time_limit_counts_the_collecting_of_warnings(
    bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def slow(*_: object) -> tuple[Notice, ...]:
        nonlocal now
        now += 100
        return ()

    monkeypatch.setattr(flow, "case_notices", slow)
    with Predictor.load(bright_bundle, threads=1, limits=Limits(timeout=60)) as limited:
        monkeypatch.setattr(time, "perf_counter", lambda: now)
        with pytest.raises(LimitError, match="stopped after 100"):
            limited.predict(blob_volume()[0])


def test_warnings_are_collected_while_the_network_runs_on_the_first_batch(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected, runs = threading.Event(), []

    def collect(*_: object) -> tuple[Notice, ...]:
        collected.set()
        return ()

    def compute(engine: Engine, images: FloatArray) -> FloatArray:
        runs.append(collected.wait(10))
        return run_checked(engine, images)

    monkeypatch.setattr(flow, "case_notices", collect)
    monkeypatch.setattr(flow, "run_checked", compute)
    predictor.predict(blob_volume()[0])
    assert len(runs) > 1
    assert all(runs)


def test_memory_is_measured_before_warnings_allocate_any(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def collected(*_: object) -> tuple[Notice, ...]:
        steps.append("warnings")
        return ()

    def measured() -> int:
        steps.append("memory")
        return 0

    monkeypatch.setattr(flow, "case_notices", collected)
    monkeypatch.setattr(flow, "resident_bytes", measured)
    predictor.predict(blob_volume()[0])
    assert steps == ["memory", "warnings"]
