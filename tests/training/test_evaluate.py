import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("h5py", reason="needs `pip install --group export`")

from training.evaluate import lesion_f1


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
def test_the_cards_figures_come_from_the_command(shared_data: Path, default_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training", "evaluate", default_bundle, "--data", shared_data],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    measured = json.loads(done.stdout)["precisions"]
    recorded = json.loads((default_bundle / "model.json").read_text())["accuracy"]["precisions"]
    assert {"fp32", "fp16"} <= set(measured)
    for precision in set(recorded) & set(measured):  # not every processor has bfloat16
        now, then = measured[precision], recorded[precision]
        assert [v["dice"] for v in now["volumes"]] == pytest.approx(
            [v["dice"] for v in then["volumes"]], abs=5e-3
        )
        assert now["slices"]["dwi"]["mean"] == pytest.approx(
            then["slices"]["dwi"]["mean"], abs=5e-3
        )
    card = (default_bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{recorded['fp16']['volumes'][0]['dice']:.3f}" in card
