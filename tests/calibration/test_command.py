import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from calibration.__main__ import app
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.spec import ModelSpec, SliceSpec
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.readers.nifti.write import save_volume
from export.bundle_writer import write_bundle
from network.checkpoint import load_checkpoint
from tests import commands
from tests.conftest import phantom_volume

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # processes that import torch


def calibrate(*arguments: object) -> subprocess.CompletedProcess[str]:
    return commands.run("calibration", *arguments)


@pytest.fixture(scope="module")
def coarse_bundle(default_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights on images of 64 pixels, which compute quickly."""
    folder = tmp_path_factory.mktemp("coarse") / "bundle"
    network = load_checkpoint(default_bundle / "model.fp32.onnx")
    spec = Bundle.open(default_bundle).spec
    coarse = ModelSpec(
        "coarse",
        "1",
        1,
        spec.modalities,
        SliceSpec(64, 3.0, spec.slices.ceiling),
        spec.fusion,
        spec.mask,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.reference._PHANTOMS", 4)  # as many as have 64 slices
        write_bundle(network, coarse, {}, folder)
    return folder


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    for seed in range(4):
        phantom = make_phantom(seed, shape=(56, 56, 8), spacing=(3.4, 3.4, 14.0))
        grid = phantom_volume(phantom).grid
        save_volume(folder / f"p{seed}_dwi.nii.gz", phantom.data, grid)
        save_volume(folder / f"p{seed}_msk.nii.gz", phantom.truth, grid)
    return folder


def test_a_variant_is_written_only_if_it_passes_and_all_is_recorded(
    coarse_bundle: Path, volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How well channels are balanced does not matter here.
    monkeypatch.setattr("calibration.balance._STEPS", 5)
    monkeypatch.setattr("calibration.trials._SMALLEST_SHARE", 0.8)
    bundle = shutil.copytree(coarse_bundle, tmp_path / "bundle")
    options = ("--slices", "8", "--variant", "int8-cpu")
    done = CliRunner().invoke(app, [str(bundle), "--data", str(volumes), *options])
    opened = Bundle.open(bundle)
    record = json.loads(opened.read("calibration.json"))
    outcomes = record["variants"]
    assert {"fp16", "int8-cpu"} <= set(outcomes) <= {"fp16", "bf16", "int8-cpu"}
    for variant, outcome in outcomes.items():
        if variant == "int8-cpu":
            assert (variant in opened.variants) == outcome["passed"]
        assert (f"{variant}: passed" in done.stdout) == outcome["passed"]
    assert "fp16" in opened.variants  # it stood, and nothing that stands goes unasked
    failed = not all(outcome["passed"] for outcome in outcomes.values())
    assert done.exit_code == (4 if failed else 0), done.stderr
    assert ("layers to blame" in done.stdout) == (not outcomes["int8-cpu"]["passed"])
    assert all(opened.model(variant) for variant in opened.variants)
    assert "Faster precisions against PyTorch" in (bundle / "MODEL_CARD.md").read_text()
    assert len(record["slices_sha256"]) == len(set(record["slices_sha256"])) == 8
    assert record["trials"][0]["tried"] == "balanced"
    shares = [trial["share_in_int8"] for trial in record["trials"]]
    assert shares == sorted(shares, reverse=True)
    assert 0.98 < shares[0] < 1
    assert outcomes["int8-cpu"]["share_in_int8"] in shares
    layers = {layer["name"] for layer in record["layers"]["int8-cpu"]}
    assert {"translations.1.conv", "residuals.3.conv2", "expansions.4.conv", "head"} <= layers


def test_a_variant_that_stands_is_not_replaced_unasked(
    default_bundle: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(default_bundle, tmp_path / "bundle")
    assert "int8-cpu" in Bundle.open(bundle).variants
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    done = calibrate(bundle, "--data", tmp_path)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert done.returncode == 3
    assert "overwrite" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--variant", "int4"), "int8-cpu, int8-trt"), (("--overwrite",), "at least two")],
)
def test_what_cannot_be_done_is_said(
    default_bundle: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    bundle, data = shutil.copytree(default_bundle, tmp_path / "bundle"), tmp_path / "data"
    data.mkdir()
    before = Bundle.open(bundle).sha256
    done = calibrate(bundle, "--data", data, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert Bundle.open(bundle).sha256 == before
