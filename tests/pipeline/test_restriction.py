"""Lesions that do not restrict diffusion are taken out of the mask, and never silently."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer import Case, Modality, Predictor, Volume
from cnnres_infer.core.diffusion import RestrictionSpec
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.core.volume import Probabilities
from cnnres_infer.outputs.writers.overlay import OUTLINE, REJECTED
from cnnres_infer.pipeline.brain import Brain
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.mask import find_lesions
from cnnres_infer.pipeline.restriction import judge, known_adc
from cnnres_infer.readers.nifti.write import save_volume
from tests import commands
from tests.conftest import BundleMaker
from tests.pipeline.shining_head import (
    ADC,
    BOUNDS,
    DWI,
    INFARCT,
    SHINE,
    B,
    adc_map,
    b0,
    codes,
    resampled,
    scaled,
    with_b,
)


@pytest.mark.parametrize(
    "given_as",
    [
        pytest.param({"adc": adc_map()}, id="adc"),
        pytest.param({"adc": adc_map(1e3)}, id="adc in 10^-3"),
        pytest.param({"adc": adc_map(1e6)}, id="adc in 10^-6"),
        pytest.param({"b0": b0()}, id="b0"),
        pytest.param({"b0": scaled(b0(), 1.2)}, id="b0 nearly on its scale"),
        pytest.param({"adc": resampled(adc_map(), 2)}, id="adc on another grid"),
        pytest.param({"b0": resampled(b0(), 2)}, id="b0 on another grid"),
    ],
)
def test_what_does_not_restrict_diffusion_is_taken_out(
    bounded: Predictor, given_as: dict[str, Any]
) -> None:
    before, after = bounded.predict(DWI), bounded.predict(with_b(**given_as))
    assert len(before.lesions) == 2
    assert before.rejected == ()
    assert not before.diffusion.checked
    (kept,), (out,) = after.lesions, after.rejected
    assert kept.relative_adc == pytest.approx(0.5, abs=0.1)
    assert out.relative_adc == pytest.approx(1.125, abs=0.1)
    assert after.diffusion.checked
    assert kept.restricted_share == pytest.approx(1, abs=0.1)
    assert out.restricted_share == pytest.approx(0, abs=0.25)
    assert after.diffusion.relative_adc_below == 0.85
    assert after.diffusion.smallest_restricted_share == 0.25
    assert "W-LESION-REJECTED" in codes(after)
    # What is left and what was taken out is what there was, and nothing else changes.
    assert after.rejected_mask is not None
    both = after.mask.data + after.rejected_mask.data
    assert np.array_equal(both, before.mask.data)
    assert np.array_equal(after.probabilities.data, before.probabilities.data)
    assert after.mask.data[INFARCT].any()
    assert not after.mask.data[SHINE].any()
    assert after.mask.volume_ml == pytest.approx(kept.volume_ml)
    assert after.rejected_mask.volume_ml == pytest.approx(out.volume_ml)


@pytest.mark.parametrize("unit", [1.0, 1e3, 1e6])
def test_the_unit_of_a_map_is_told_by_the_brain(bounded: Predictor, unit: float) -> None:
    result = bounded.predict(DWI, adc=adc_map(unit))
    assert result.diffusion.by == "adc"
    assert result.diffusion.brain_adc_mm2_s == pytest.approx(0.8e-3, rel=1e-2)
    assert result.lesions[0].adc_mm2_s == pytest.approx(0.4e-3, rel=1e-2)


def test_a_map_in_no_usual_unit_is_used_all_the_same(bounded: Predictor) -> None:
    result = bounded.predict(DWI, adc=adc_map(5e4))
    assert "W-INPUT-DIFFUSION" in codes(result)
    assert result.diffusion.brain_adc_mm2_s is None
    assert [lesion.adc_mm2_s for lesion in (*result.lesions, *result.rejected)] == [None, None]
    assert result.lesions[0].relative_adc == pytest.approx(0.5, rel=1e-2)


def test_b0_has_a_unit_if_b_is_known(bounded: Predictor) -> None:
    result = bounded.predict(with_b(1200.0, b0=b0(1200.0)))
    assert result.diffusion.b_value == 1200.0
    for found, real in ((result.lesions, 0.4e-3), (result.rejected, 0.9e-3)):
        assert found[0].adc_mm2_s == pytest.approx(real, rel=1e-2)


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_by_b0_of_an_unknown_b_nothing_is_rejected(bounded: Predictor, factor: float) -> None:
    result = bounded.predict(with_b(None, b0=scaled(b0(), factor)))
    assert result.diffusion.by == "b0"
    assert result.diffusion.b_value is result.diffusion.brain_adc_mm2_s is None
    assert not result.diffusion.checked
    assert "without the b-value" in result.diffusion.note
    (notice,) = (each.text for each in result.warnings if each.code == "W-INPUT-DIFFUSION")
    assert "without the b-value" in notice
    assert "`bvalue`" in notice
    assert len(result.lesions) == 2
    assert result.rejected == ()
    assert result.diffusion.smallest_restricted_share == 0.25
    assert sorted(lesion.restricted_share or 0 for lesion in result.lesions) == [0, 1]
    for lesion in result.lesions:
        assert lesion.relative_adc is not None
        assert lesion.adc_mm2_s is None


@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_b0_on_another_scale_is_not_used(bounded: Predictor, factor: float) -> None:
    result = bounded.predict(with_b(b0=scaled(b0(), factor)))
    assert "W-INPUT-DIFFUSION" in codes(result)
    assert "scaled differently" in result.diffusion.note
    assert result.rejected == ()
    assert len(result.lesions) == 2


def test_a_model_without_bounds_measures_and_rejects_nothing(unbounded: Predictor) -> None:
    result = unbounded.predict(DWI, adc=adc_map())
    assert [lesion.relative_adc for lesion in result.lesions] == pytest.approx(
        [1.125, 0.5], rel=1e-2
    )
    assert result.rejected == ()
    assert result.rejected_mask is None
    assert not result.diffusion.checked
    assert "no bounds" in result.diffusion.note
    assert [lesion.restricted_share for lesion in result.lesions] == [None, None]
    assert result.diffusion.relative_adc_below is None


def test_without_adc_the_result_says_that_diffusion_was_not_checked(bounded: Predictor) -> None:
    result = bounded.predict(DWI)
    assert not result.diffusion.checked
    assert "not checked" in result.diffusion.note
    assert [lesion.relative_adc for lesion in result.lesions] == [None, None]


def test_a_flair_is_not_advised_to_come_with_adc(bounded: Predictor) -> None:
    note = bounded.predict(DWI, modality="flair").diffusion.note
    assert "not checked: a FLAIR" in note
    assert "ADC" not in note


def test_lesions_of_unknown_adc_are_kept_and_it_says_so(bounded: Predictor) -> None:
    unknown = np.where(SHINE, np.float32(0), ADC)
    result = bounded.predict(DWI, adc=replace(adc_map(), data=unknown))
    assert result.rejected == ()
    assert [lesion.restricted_share for lesion in result.lesions] == [None, 1.0]
    (notice,) = (each.text for each in result.warnings if each.code == "W-INPUT-DIFFUSION")
    assert "1 lesion kept unchecked" in notice


def test_all_lesions_can_be_rejected(bounded: Predictor) -> None:
    result = bounded.predict(
        DWI, adc=replace(adc_map(), data=np.where(INFARCT, 9e-4, ADC).astype("f4"))
    )
    assert result.lesions == ()
    assert len(result.rejected) == 2
    assert not result.mask.data.any()
    assert "no lesion is left" in str(result.warnings[-1])


def test_outputs_show_what_was_rejected(bounded: Predictor, tmp_path: Path) -> None:
    from PIL import Image

    result = bounded.predict(DWI, adc=adc_map())
    saved = result.save(tmp_path)
    report = json.loads(saved["report"].read_text())
    assert report["lesions"]["count"] == 1
    (out,) = report["lesions"]["rejected"]
    assert out["relative_adc"] == pytest.approx(1.125, rel=1e-2)
    assert out["adc_mm2_s"] == pytest.approx(0.9e-3, rel=1e-2)
    assert out["restricted_share"] == 0
    assert out["volume_ml"] == result.rejected[0].volume_ml
    assert len(out["centre_mm"]) == 3
    assert report["diffusion"]["checked"] is True
    assert report["diffusion"]["by"] == "adc"
    assert report["diffusion"]["smallest_restricted_share"] == 0.25
    assert report["inputs"] == {"dwi": "blob", "adc": "adc"}
    picture = np.asarray(Image.open(saved["overlay"]))
    for colour in (OUTLINE, REJECTED):
        assert (picture[:-100] == np.array(colour)).all(axis=2).sum() > 20


def test_lesions_are_rejected_after_dwi_and_flair_are_merged(bounded: Predictor) -> None:
    flair = replace(DWI, data=2 * DWI.data, name="flair")
    merged = bounded.predict(DWI, flair=flair, adc=adc_map())
    assert len(merged.lesions) == len(merged.rejected) == 1


def test_files_images_and_arrays_are_read_as_a_flair_is(bounded: Predictor, tmp_path: Path) -> None:
    import nibabel

    path = tmp_path / "adc.nii.gz"
    save_volume(path, ADC, DWI.grid)
    array = (ADC.astype(np.float64), DWI.grid.affine)
    for source in (path, str(path), nibabel.load(path), array):
        assert len(bounded.predict(DWI, adc=source).rejected) == 1


def series(folder: Path) -> Path:
    """A 4-D file of b0 and the DWI, of which only the `.bval` says which is which."""
    import nibabel

    path = folder / "scan.nii.gz"
    both = np.stack([b0().data, DWI.data, b0().data], axis=3)
    nibabel.save(nibabel.Nifti1Image(both, DWI.grid.affine), path)
    path.with_name("scan.bval").write_text("0 1000 5")
    return path


def test_the_b0_of_a_series_is_used_without_being_asked_for(
    bounded: Predictor, tmp_path: Path
) -> None:
    result = bounded.predict(series(tmp_path))
    assert result.diffusion.by == "b0"
    assert result.diffusion.b_value == B
    assert result.diffusion.brain_adc_mm2_s == pytest.approx(0.8e-3, rel=1e-3)
    assert result.lesions[0].adc_mm2_s == pytest.approx(0.4e-3, rel=1e-2)
    assert len(result.rejected) == 1
    assert result.provenance.inputs == {"dwi": "scan", "b0": "scan"}
    said = [str(notice) for notice in result.warnings if notice.code == "W-NIFTI-VOLUME"]
    assert len(said) == 1
    assert "the mean of volumes 0, 2 is its b0" in said[0]


def test_an_adc_map_is_preferred_to_the_b0_of_a_series(bounded: Predictor, tmp_path: Path) -> None:
    result = bounded.predict(series(tmp_path), adc=adc_map(1e6))
    assert result.diffusion.by == "adc"
    assert result.provenance.inputs == {"dwi": "scan", "adc": "adc"}
    other = bounded.predict(series(tmp_path), b0=replace(b0(), name="other"))
    assert other.provenance.inputs["b0"] == "other"
    assert other.diffusion.b_value == B


def test_the_command_line_takes_adc_and_b0(make_bundle: BundleMaker, tmp_path: Path) -> None:
    bundle = make_bundle(diffusion=BOUNDS)
    dwi, other = tmp_path / "dwi.nii.gz", tmp_path / "other.nii.gz"
    save_volume(dwi, DWI.data, DWI.grid)
    dwi.with_name("dwi.bval").write_text(f"{B:g}")
    for flag, volume in (("--adc", adc_map()), ("--b0", b0())):
        save_volume(other, volume.data, volume.grid, overwrite=True)
        out = tmp_path / flag.strip("-")
        done = commands.run("cnnres_infer", dwi, flag, other, "-o", out, "--bundle", bundle)
        assert done.returncode == 0, done.stderr
        assert "1 lesion," in done.stdout
        assert "warning W-LESION-REJECTED: 1 lesion" in done.stdout
        report = json.loads((out / "dwi_report.json").read_text())
        assert report["diffusion"]["by"] == flag.strip("-")
        assert len(report["lesions"]["rejected"]) == 1


def test_the_b_value_of_a_single_volume_can_be_stated(
    make_bundle: BundleMaker, bounded: Predictor, tmp_path: Path
) -> None:
    import nibabel

    bundle = make_bundle(diffusion=BOUNDS)
    dwi, other = tmp_path / "dwi.nii.gz", tmp_path / "other.nii.gz"
    save_volume(dwi, DWI.data, DWI.grid)
    save_volume(other, b0(800).data, DWI.grid)
    run = ("cnnres_infer", dwi, "--b0", other, "--bundle", bundle, "--overwrite")
    done = commands.run(*run)
    assert done.returncode == 0, done.stderr
    assert "2 lesions" in done.stdout
    assert "give it (--bvalue)" in done.stdout
    done = commands.run(*run, "--bvalue", 800)
    assert done.returncode == 0, done.stderr
    assert "1 lesion," in done.stdout
    assert "W-INPUT-DIFFUSION" not in done.stdout
    report = json.loads((tmp_path / "dwi_report.json").read_text())
    assert report["diffusion"]["b_value"] == 800
    assert report["lesions"]["each"][0]["adc_mm2_s"] == pytest.approx(0.4e-3, rel=1e-2)
    array = (DWI.data, DWI.grid.affine)
    for source in (dwi, DWI, array, nibabel.load(dwi)):
        result = bounded.predict(source, b0=(b0(800).data, DWI.grid.affine), bvalue=800)
        assert len(result.rejected) == 1
        assert result.diffusion.b_value == 800


@given(
    spots=st.lists(
        st.tuples(st.integers(2, 17), st.integers(2, 17), st.integers(1, 8), st.booleans()),
        max_size=12,
    ),
    below=st.floats(0.3, 1.5),
    least=st.floats(0.01, 1),
    seed=st.integers(0, 1000),
)
def test_lesions_are_kept_or_rejected_and_none_is_lost(
    spots: list[tuple[int, int, int, bool]], below: float, least: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    grid = Grid((20, 20, 10), np.diag([2.0, 2.0, 5.0, 1.0]))
    data = np.zeros(grid.shape, np.float32)
    for x, y, z, large in spots:
        data[x - large : x + 1 + large, y - large : y + 1 + large, z] = 1.0
    dwi = Volume(generator.uniform(50, 150, grid.shape).astype(np.float32), grid, "dwi")
    adc = Volume((1e-1 / dwi.data).astype(np.float32), grid, "adc")
    brain = Brain(np.ones(grid.shape, np.bool_), "given")
    found = find_lesions(Probabilities(data, grid), MaskSpec(0.5, 0.0))
    known = known_adc(Case(Modality.DWI, dwi, adc=adc), brain, Stopwatch())
    verdict = judge(found, known, RestrictionSpec(below, least))
    assert len(verdict.lesions) + len(verdict.rejected) == len(found.each)
    assert all(each.restricted_share >= least for each in verdict.lesions)  # type: ignore[operator]
    assert all(each.restricted_share < least for each in verdict.rejected)  # type: ignore[operator]
    assert int(verdict.mask.data.sum()) == sum(lesion.voxels for lesion in verdict.lesions)
    out = 0 if verdict.rejected_mask is None else int(verdict.rejected_mask.data.sum())
    assert out == sum(lesion.voxels for lesion in verdict.rejected)
    assert int(verdict.mask.data.sum()) + out == int(data.sum())
