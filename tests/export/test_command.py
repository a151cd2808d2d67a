import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import run_all
from cnnres_infer.errors import BundleError
from cnnres_infer.selection.offers import open_engine
from cnnres_infer.verification.agreement import load_reference
from export.__main__ import app
from network.checkpoint import load_checkpoint
from tests import commands
from tests.narrow import NARROW, narrow_network

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # processes that import torch


def export(*arguments: object) -> subprocess.CompletedProcess[str]:
    return commands.run("export", *arguments, cwd=ROOT)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command here, with as many small phantoms as have 64 slices."""
    monkeypatch.setattr("export.reference._PHANTOMS", 5)
    monkeypatch.setattr("export.reference._GRIDS", [((72, 72, 18), (3.2, 3.2, 8.0))])
    monkeypatch.setattr("export.reference._DRAWS", 1)
    return lambda *arguments: CliRunner().invoke(app, [*map(str, arguments)])


def test_a_bundle_from_a_bundles_weights(
    exported: Callable[..., Result], default_bundle: Path, tmp_path: Path
) -> None:
    description = json.loads((ROOT / "export" / "cnnres-dwi-flair.json").read_text())
    description["name"] = "mine"
    (tmp_path / "mine.json").write_text(json.dumps(description))
    checkpoint = default_bundle / "model.fp32.onnx"
    options = ("--out", tmp_path / "mine", "--description", tmp_path / "mine.json")
    done = exported(checkpoint, *options)
    assert done.exit_code == 0, done.output
    assert "fp32: largest difference" in done.stdout
    bundle = Bundle.open(tmp_path / "mine")
    assert bundle.spec.name == "mine"
    # Which slices are kept hangs on the last bits, which processors round in their own ways.
    images, probabilities = load_reference(bundle)
    shipped_images, shipped = load_reference(Bundle.open(default_bundle))
    assert images.shape == shipped_images.shape
    with open_engine(bundle, "ort", Precision.FP32) as engine:
        assert np.abs(run_all(engine, images) - probabilities).max() <= 1e-5
        assert np.abs(run_all(engine, shipped_images) - shipped).max() <= 1e-5
    card = (tmp_path / "mine" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "ISLES" in card
    again = export(checkpoint, *options)
    assert again.returncode == 3
    assert "overwrite" in again.stderr


def test_an_own_model_is_not_published_as_ours(
    exported: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(narrow_network().state_dict(), tmp_path / "own.safetensors")
    narrow = partial(load_checkpoint, widths=NARROW)
    monkeypatch.setattr("export.__main__.load_checkpoint", narrow)
    done = exported(tmp_path / "own.safetensors", "--out", tmp_path / "mine")
    assert done.exit_code == 0, done.output
    assert Bundle.open(tmp_path / "mine").spec.name == "own"
    card = (tmp_path / "mine" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "ISLES" not in card
    assert "few patients" not in card


@pytest.mark.parametrize("text", ["", "[]", '{"input": 3}', '{"input": {}}'])
def test_a_bad_description_is_refused(default_bundle: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "d.json").write_text(text)
    checkpoint = default_bundle / "model.fp32.onnx"
    options = ("--out", tmp_path / "mine", "--description", tmp_path / "d.json")
    done = export(checkpoint, *options)
    assert done.returncode in (2, 3)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("checkpoint", ["none.safetensors", "weights.pt", "none.h5"])
def test_errors_are_one_line(tmp_path: Path, checkpoint: str) -> None:
    done = export(tmp_path / checkpoint, "--out", tmp_path / "out")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx", ".h5", ".pt"])
def test_a_checkpoint_that_cannot_be_used_has_its_code(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    for code in ("E-FILE-MISSING", "E-BUNDLE"):
        with pytest.raises(BundleError) as caught:
            load_checkpoint(path, 1e-3)
        assert caught.value.code == code
        path.write_bytes(b"no weights")
