from pathlib import Path

import pytest

pytest.importorskip("h5py", reason="needs `pip install --group export`")

from cnnres_infer.predictor import Predictor
from training import data
from training.limits import limits


@pytest.mark.slow
def test_what_limits_the_built_in_model(
    shared_data: Path, default_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some of the patients trained on, and the same patients held out.
    rows = data._index(shared_data)
    held_out = data._held_out(rows)
    some = [row for n, row in enumerate(rows) if n % 8 == 0 or row["case"] in held_out]
    monkeypatch.setattr(data, "_index", lambda _: some)
    monkeypatch.setattr(data, "_held_out", lambda _: held_out)
    monkeypatch.setattr("training.limits._SHARES", (0.05, 0.4))
    monkeypatch.setattr("training.agreement._GAINS", 2)
    monkeypatch.setattr("training.limits.VALIDATION_VOLUMES", data.VALIDATION_VOLUMES[:1])
    with Predictor.load(default_bundle, "ort", "fp32") as predictor:
        found = limits(predictor, shared_data)
    dice = {(row["modality"], row["patients"]): row["dice"] for row in found["patients"]}
    assert len(dice) == 4
    for row in found["patients"]:
        classes = row["dice_by_pixels"].values()
        assert sum(count for count, _ in classes) == row["count"]
        mean = sum(count * each for count, each in classes) / row["count"]
        assert mean == pytest.approx(row["dice"])
        assert row["dice_at_best_thresholds"] >= row["dice"] - 0.02
    for modality in ("dwi", "flair"):
        assert dice[modality, "trained on"] > dice[modality, "held out"]
    for row in found["shading"]:
        left = list(row["left"].values())
        assert 1 >= left[0] > left[-1] > 0
    for row in found["lesions"]:
        assert row["over 0.5 ml"]["found"] >= 1
