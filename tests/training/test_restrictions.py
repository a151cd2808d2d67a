from pathlib import Path

import pytest

pytest.importorskip("h5py", reason="needs `pip install --group export`")

from cnnres_infer.core.diffusion import RestrictionSpec
from cnnres_infer.predictor import Predictor
from training import restrictions
from training.data import VALIDATION_VOLUMES


@pytest.mark.slow
def test_bounds_of_the_built_in_model(
    shared_data: Path, default_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restrictions, "CLINICAL", ("vol07",))
    monkeypatch.setattr(restrictions, "VALIDATION_VOLUMES", VALIDATION_VOLUMES[1:])
    monkeypatch.setattr(restrictions, "_BELOW", (0.01, 0.85))
    monkeypatch.setattr(restrictions, "_SHARES", (0.25,))
    with Predictor.load(default_bundle, "ort", "fp32") as predictor:
        unchecked, strictest, usual = restrictions.compare_restrictions(predictor, shared_data)
        assert usual.bounds == predictor.bundle.spec.restriction == RestrictionSpec(0.85, 0.25)
        (volume,) = predictor.bundle.manifest["accuracy"]["precisions"]["fp32"]["volumes"][1:]
    assert unchecked.bounds is None
    assert (unchecked.dice, usual.dice) == pytest.approx((volume["dice"], volume["dice_with_adc"]))
    assert (unchecked.lesion_f1, usual.lesion_f1) == pytest.approx(
        (volume["lesion_f1"], volume["lesion_f1_with_adc"])
    )
    assert (strictest.dice, strictest.false_ml, strictest.without_lesion) == (0, 0, 1)
