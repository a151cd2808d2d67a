import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.__main__ import _write
from benchmarks.charts import bar_chart
from benchmarks.contestants import EAGER, contestants, multiply_adds
from benchmarks.scale import run_one
from benchmarks.unet import UNet
from cnnres_infer.bundle import Bundle
from cnnres_infer.errors import OutputError
from training.network import CNNRes


def test_the_unet_has_the_papers_parameters() -> None:
    assert sum(each.numel() for each in UNet().parameters()) == 31_031_685


def test_multiply_adds() -> None:
    assert multiply_adds(CNNRes().eval(), 160) / 1e9 == pytest.approx(2.06, abs=0.01)
    assert multiply_adds(UNet().eval(), 160) / 1e9 > 15


def test_contestants_compute_the_same_network() -> None:
    entrants = contestants(Bundle.open(), threads=1)
    images = np.random.default_rng(0).random((1, 1, 160, 160), np.float32)
    chosen = (EAGER, "PyTorch channels-last, batch 8", "ours: ort fp32")
    outputs = [entrants[name].open()(images) for name in chosen]
    for output in outputs[1:]:
        np.testing.assert_allclose(output, outputs[0], atol=1e-4)
    assert {entrant.network for entrant in entrants.values()} == {"CNN-Res", "U-Net"}


def test_one_size_of_volume(bright_bundle: Path) -> None:
    figures = run_one(bright_bundle, "ort", "fp32", slices=3, size=128, threads=1, runs=1)
    assert figures["volume_mb"] == pytest.approx(3 * 128 * 128 * 4 / 1e6)
    assert figures["peak_mb"] >= figures["peak_mb_before"] > figures["volume_mb"]


def test_bars_are_as_long_as_their_values(tmp_path: Path) -> None:
    path = tmp_path / "chart.png"
    bar_chart(path, "title", {"long": 2.0, "ours: short": 1.0}, "s")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    grey, green = (
        int((pixels == colour).all(axis=2).sum(axis=1).max())
        for colour in ((0x9A, 0xA5, 0xB1), (0x2A, 0x7F, 0x62))
    )
    assert grey == pytest.approx(2 * green, abs=2)


def test_figures_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figures.json"
    _write(path, {"seconds": 1})
    _write(path, {"seconds": 2})
    assert json.loads(path.read_text()) == {"seconds": 2}
    with pytest.raises(OutputError):
        _write(path / "below a file", {})
    with pytest.raises(OutputError):
        bar_chart(path / "below a file.png", "title", {"a": 1.0}, "s")
    assert list(tmp_path.rglob("*.*")) == [path]


def test_an_error_is_one_line_and_its_exit_status(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "end-to-end", "--bundle", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("benchmarks: ")
    assert done.stderr.count("\n") == 1
