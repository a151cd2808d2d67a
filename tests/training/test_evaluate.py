from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("h5py", reason="needs `pip install --group export`")

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.predictor import Predictor
from cnnres_infer.selection.select import Selection
from training.evaluate import evaluate, lesion_f1, precise_engine


def test_lesion_f1() -> None:
    truth = np.zeros((20, 20, 4), np.bool_)
    truth[2:5, 2:5, 1] = truth[10:12, 10:12, 2] = True
    predicted = np.zeros_like(truth)
    predicted[3:7, 3:7, 1] = predicted[16:18, 2:4, 2] = True
    assert lesion_f1(predicted, truth) == pytest.approx(2 / 4)
    assert lesion_f1(truth, truth) == 1.0
    assert lesion_f1(np.zeros_like(truth), np.zeros_like(truth)) == 1.0
    assert lesion_f1(np.zeros_like(truth), truth) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_the_cards_figures_are_measured_again(
    shared_data: Path, default_bundle: Path, precision: Precision
) -> None:
    bundle = Bundle.open(default_bundle)
    with precise_engine(bundle, precision) as engine:
        now = evaluate(Predictor(bundle, Selection(engine)), shared_data)
    recorded = bundle.manifest["accuracy"]["precisions"]
    then = recorded[precision]
    assert [v["dice"] for v in now["volumes"]] == pytest.approx(
        [v["dice"] for v in then["volumes"]], abs=5e-3
    )
    assert now["slices"]["dwi"]["mean"] == pytest.approx(then["slices"]["dwi"]["mean"], abs=5e-3)
    card = (default_bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{recorded['fp32']['volumes'][0]['dice']:.3f}" in card
