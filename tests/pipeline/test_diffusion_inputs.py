"""What is given beside a DWI is used only if it can be its ADC map or its b0."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cnnres_infer import Case, Modality, Predictor, Volume
from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import GeometryError, UsageError, VolumeError
from cnnres_infer.pipeline.brain import Brain
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.restriction import known_adc
from tests.pipeline.shining_head import ADC, DWI, adc_map, b0, codes, only, scaled, shifted


@pytest.mark.parametrize(
    ("role", "volume"),
    [
        pytest.param("adc", b0(), id="b0 as adc"),
        pytest.param("b0", adc_map(1e6), id="adc as b0"),
        pytest.param("b0", scaled(b0(), 50), id="b0 scaled"),
        pytest.param("b0", scaled(b0(), 1 / 50), id="b0 scaled down"),
        pytest.param("adc", replace(adc_map(), data=-ADC), id="negative adc"),
        pytest.param("adc", replace(DWI, data=DWI.data + np.float32(1)), id="dwi as adc"),
    ],
)
def test_what_does_not_look_like_adc_or_b0_is_not_used(
    bounded: Predictor, role: str, volume: Volume
) -> None:
    result = bounded.predict(DWI, **only(role, volume))
    assert "W-INPUT-DIFFUSION" in codes(result)
    assert not result.diffusion.checked
    assert "not used" in result.diffusion.note
    assert result.rejected == ()
    assert len(result.lesions) == 2


def test_what_cannot_be_compared_with_the_dwi_is_not_used() -> None:
    inside = DWI.data > 0
    around = np.random.default_rng(0).uniform(1e-4, 3e-3, ADC.shape).astype(np.float32)
    few = np.where(inside, np.float32(0), around)
    few[::12, ::12, ::6] = around[::12, ::12, ::6]
    case = Case(Modality.DWI, DWI, adc=replace(adc_map(), data=few))
    adc = known_adc(case, Brain(inside, "given"), Stopwatch())
    assert [notice.code for notice in adc.notices] == ["W-INPUT-DIFFUSION"]
    assert "cannot be compared" in adc.check.note
    assert adc.data is None


@pytest.mark.parametrize("role", ["adc", "b0"])
@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(DWI.data > 0, ErrorCode.VOXELS_LABELS, id="brain mask"),
        pytest.param(np.where(DWI.data > 0, 8e-4, ADC + 1e-4), ErrorCode.VOXELS_LABELS, id="flat"),
        pytest.param(np.digitize(ADC, [1e-4, 6e-4, 2e-3]), ErrorCode.VOXELS_LABELS, id="labels"),
        pytest.param(
            (ADC * 4.096e7).astype(np.int64).astype(np.int16),
            ErrorCode.VOXELS_WRAPPED,
            id="wrapped",
        ),
    ],
)
def test_what_cannot_be_an_image_is_refused(
    bounded: Predictor, role: str, data: np.ndarray, code: ErrorCode
) -> None:
    with pytest.raises(VolumeError) as caught:
        bounded.predict(DWI, **only(role, replace(adc_map(), data=data.astype(np.float32))))
    assert caught.value.code is code


@pytest.mark.parametrize("role", ["adc", "b0"])
def test_the_dwi_itself_is_refused(bounded: Predictor, role: str) -> None:
    with pytest.raises(VolumeError, match="DWI itself") as caught:
        bounded.predict(DWI, **only(role, replace(DWI, name="again")))
    assert caught.value.code is ErrorCode.INPUT_DIFFUSION


@pytest.mark.parametrize(("role", "make"), [("adc", adc_map), ("b0", b0)])
def test_other_places_are_refused_or_noted(
    bounded: Predictor, role: str, make: Callable[[], Volume]
) -> None:
    with pytest.raises(GeometryError, match=r"overlap|cover") as caught:
        bounded.predict(DWI, **only(role, shifted(make(), 500)))
    assert caught.value.code is ErrorCode.GRID_OVERLAP
    partly = bounded.predict(DWI, **only(role, shifted(make(), 40)))
    assert {"W-GRID-UNCOVERED", "W-GRID-RESAMPLED"} <= set(codes(partly))


@pytest.mark.parametrize("role", ["adc", "b0"])
def test_a_flair_has_no_diffusion(bounded: Predictor, role: str) -> None:
    with pytest.raises(UsageError, match="FLAIR"):
        bounded.predict(DWI, modality="flair", **only(role, adc_map()))
    with pytest.raises(UsageError, match="FLAIR"):
        Case(Modality.FLAIR, DWI, **only(role, adc_map()))


def test_adc_and_b0_together_are_refused(bounded: Predictor) -> None:
    with pytest.raises(UsageError, match="only one"):
        bounded.predict(DWI, adc=adc_map(), b0=b0())


@pytest.mark.parametrize("b", [0.0, -1.0, float("nan"), float("inf")])
def test_a_case_has_a_b_value_or_none(b: float) -> None:
    with pytest.raises(UsageError, match="b-value"):
        Case(Modality.DWI, DWI, b0=b0(), b_value=b)
