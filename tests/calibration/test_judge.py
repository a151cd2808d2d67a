import numpy as np
import pytest

from calibration.judge import Judge
from calibration.scan import Scan
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.verification.agreement import GATES
from tests.conftest import phantom_volume


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return Bundle.open().spec


@pytest.fixture(scope="module")
def scans(spec: ModelSpec) -> tuple[Scan, ...]:
    phantoms = [make_phantom(seed, shape=(64, 64, 8), spacing=(3.0, 3.0, 12.0)) for seed in (1, 2)]
    return tuple(
        Scan.of_case(
            name, Case(Modality.DWI, phantom_volume(phantom, name)), phantom.truth > 0, spec
        )
        for name, phantom in zip(("first", "second"), phantoms, strict=True)
    )


def bright(images: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-60 * (images - 0.7))), np.float32)


def test_the_same_network_agrees_with_itself(scans: tuple[Scan, ...], spec: ModelSpec) -> None:
    verdict = Judge(scans, spec, bright)(bright)
    assert verdict.agreement.mean == verdict.volume_dice == 1.0
    assert set(verdict.volumes) == {"first", "second"}
    assert verdict.drop == 0.0
    assert verdict.misses(GATES[Precision.FP32]) == ()
    reference, candidate = verdict.expert_slices or (0, 0)
    assert reference == candidate > 0.3


def test_the_figures_that_miss_the_gate_are_named(scans: tuple[Scan, ...], spec: ModelSpec) -> None:
    verdict = Judge(scans, spec, bright)(lambda images: bright(images - 0.1))
    misses = verdict.misses(GATES[Precision.INT8])
    assert any(text.startswith("mean Dice of slices 0.") for text in misses)
    assert any(text.startswith("Dice of volumes 0.") for text in misses)
    assert verdict.to_json()["dice_mean"] == verdict.agreement.mean


def test_losing_the_experts_lesions_fails_the_gate(
    scans: tuple[Scan, ...], spec: ModelSpec
) -> None:
    verdict = Judge(scans, spec, bright)(lambda images: 0 * bright(images))
    assert verdict.drop > 0.3
    assert "drops by" in verdict.misses(GATES[Precision.INT8])[-1]
    assert verdict.agreement.one_empty == len(verdict.agreement.counted) > 0
