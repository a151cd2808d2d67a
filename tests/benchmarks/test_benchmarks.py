import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import end_to_end as whole
from benchmarks import rewritings as rewriting
from benchmarks import scale as scaling
from benchmarks import stages as staged
from benchmarks import steps as stepwise
from benchmarks.__main__ import _write
from benchmarks.charts import bar_chart
from benchmarks.common import save_phantom
from benchmarks.contestants import EAGER, contestants, multiply_adds
from benchmarks.profile import profile
from benchmarks.unet import UNet
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.errors import OutputError
from network.cnnres import CNNRes
from tests import commands


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


@pytest.mark.slow
def test_volumes_of_two_sizes(bright_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "SHAPE", (112, 112, 4))
    monkeypatch.setattr(scaling, "usable_cores", lambda: 1)
    monkeypatch.setattr(scaling, "SLICES", (3, 6))
    monkeypatch.setattr(scaling, "SIZES", (128,))
    monkeypatch.setattr(scaling, "LARGEST", (12, 256))
    figures = scaling.scale(bright_bundle, "ort", "fp32", runs=1)
    few, more = figures["tables"]["slices"]
    assert few["volume_mb"] == pytest.approx(3 * 112 * 112 * 4 / 1e6)
    assert more["volume_mb"] == pytest.approx(2 * few["volume_mb"])
    (largest,) = figures["tables"]["the largest"]
    assert largest["volume_mb"] == pytest.approx(12 * 256 * 256 * 4 / 1e6)
    assert largest["peak_mb"] > largest["volume_mb"] + 50


def test_rewritings_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).random((1, 1, 160, 160), np.float32)
    monkeypatch.setattr(rewriting, "phantom_slices", lambda _: images)
    monkeypatch.setattr(rewriting, "ENGINES", (("ort", "fp32"),))
    figures = rewriting.rewritings(None, runs=1)
    assert len(figures["rows"]) == len(rewriting.SEQUENCES)
    assert all(row["ort fp32"] > 0 for row in figures["rows"].values())


def test_a_profile_has_the_nodes_of_the_variant() -> None:
    figures = profile(None, "int8-cpu", runs=2)
    assert figures["slices"] == 4
    assert {"Conv", "QLinearConv"} <= set(figures["kinds"])
    spent = list(figures["nodes"].values())
    assert spent == sorted(spent, reverse=True)
    assert sum(spent) == pytest.approx(sum(figures["kinds"].values()))


def test_every_step_takes_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepwise, "SHAPE", (64, 64, 8))
    figures = stepwise.steps(runs=1)
    assert set(figures["steps"]) == {"brain", "shading", "ADC map", "b0", "lesions"}
    assert all(spent >= 0 for spent in figures["steps"].values())


def test_stages_of_synthetic_heads_with_a_flair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "GRIDS", (((60, 70, 12), (3.0, 3.0, 10.0)),))
    monkeypatch.setattr(staged, "FLAIR_GRID", ((64, 64, 14), (3.2, 3.2, 9.0)))
    volumes = staged.stages(None, 1, (), flair=True)["volumes"]
    assert list(volumes) == ["60 x 70 x 12, whole head", "60 x 70 x 12, stripped"]
    for volume in volumes.values():
        assert not volume["found"].startswith("0 ")
        spent = volume["stages"]
        steps = {"read", "brain", "register", "slices", "engine", "mask"}
        assert set(spent) == steps | {staged.OTHER_THREADS, staged.ALL_BUT_ENGINE, staged.SAVE}
        clock = {name: each[staged.CLOCK] for name, each in spent.items()}
        parts = sum(clock[name] for name in steps - {"engine"})
        assert 0 < parts < clock[staged.ALL_BUT_ENGINE]
        assert spent[staged.OTHER_THREADS][staged.PROCESSOR] > 0


def test_stages_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "dwi.nii.gz"
    save_phantom(path, (60, 70, 12), (3.0, 3.0, 10.0))
    figures = staged.stages(None, 2, [path], flair=False, slice_ms=40)
    (name,) = figures["volumes"]
    assert name == "dwi.nii.gz"
    spent = figures["volumes"][name]["stages"]
    assert "register" not in spent
    assert spent["engine"][staged.CLOCK] > 40
    # What the engine waits is nobody's time.
    assert spent[staged.ALL_BUT_ENGINE][staged.PROCESSOR] > 0
    assert [each.name for each in tmp_path.iterdir()] == ["dwi.nii.gz"]


@pytest.mark.slow
def test_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "SHAPE", (112, 112, 4))
    monkeypatch.setattr(whole, "_engines", lambda _: [("ort", "int8"), ("tensorrt", "fp16")])
    figures = whole.measure(None, runs=1)
    assert "reason" in figures["rows"].pop("tensorrt fp16")
    assert set(figures["rows"]) == {whole.EAGER, "ort int8"}
    for row in figures["rows"].values():
        assert all(row[what] > 0 for what in whole.TIMES)
        assert row["peak_mb"] > 50
        assert set(row["stages"]) >= {"read", "brain", "engine"}


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


@pytest.mark.slow
def test_an_error_is_one_line_and_its_exit_status(tmp_path: Path) -> None:
    done = commands.run("benchmarks", "end-to-end", "--bundle", tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("benchmarks: ")
    assert done.stderr.count("\n") == 1
