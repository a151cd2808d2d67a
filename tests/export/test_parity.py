import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cnnres_infer import engines
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import ModelFile, Probe
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.errors import BackendUnavailableError, BundleError, VerificationError
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.readers.case import read_case
from cnnres_infer.readers.nifti.write import save_volume
from cnnres_infer.verification.reference import VolumeReference
from export.__main__ import app
from export.volume_outputs import torch_engine, volume_reference
from tests.cli.test_cli import run
from tests.conftest import phantom_volume
from tests.export.test_command import export

SHAPE, SPACING = (96, 96, 6), (2.2, 2.2, 14.0)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("phantom") / "phantom.nii.gz"
    phantom = make_phantom(3, shape=SHAPE, spacing=SPACING)
    save_volume(path, phantom.data, phantom_volume(phantom).grid)
    return path


class AbsentEngine(OrtEngine):
    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> "AbsentEngine":
        raise BackendUnavailableError("abacus is not installed; to fix it: buy one")

    @classmethod
    def probe(cls) -> Probe:
        return Probe(False, "abacus is not installed", "buy one")


class BrokenEngine(OrtEngine):
    def run(self, images: FloatArray) -> FloatArray:
        return np.roll(super().run(images), 3, axis=2)


@pytest.mark.slow
def test_outputs_stored_with_torch_verify_without(volume: Path, tmp_path: Path) -> None:
    stored = tmp_path / "new" / "ref.npz"
    done = export("reference", volume, "--out", stored)
    assert done.returncode == 0, done.stderr
    assert "torch" in VolumeReference.load(stored).made_by
    again = export("reference", volume, "--out", stored)
    assert again.returncode == 3
    assert "overwrite" in again.stderr
    checked = run("verify", volume, "--reference", stored, "--precision", "fp32", "--json")
    assert checked.returncode == 0, checked.stderr
    agreement = json.loads(checked.stdout)["agreement"]
    assert agreement["dice_volume_mask"] == 1.0
    assert agreement["largest_difference"] < 1e-4
    assert agreement["slices"] > agreement["both_empty"]


@pytest.mark.slow
def test_parity_of_this_machine(volume: Path) -> None:
    done = export("parity", volume, "--repeats", 1, "--json")
    assert done.returncode == 0, done.stderr
    first, *others = json.loads(done.stdout)["rows"]
    assert (first["backend"], first["precision"], first["speed_up"]) == ("torch", "fp32", 1.0)
    assert [(row["backend"], row["precision"]) for row in others] == [
        (name, precision)
        for name in engines.BACKENDS
        for precision in engines.backend(name).VARIANTS
    ]
    exact = next(row for row in others if (row["backend"], row["precision"]) == ("ort", "fp32"))
    assert exact["status"] == "passed"
    assert exact["dice_min"] == exact["dice_mean"] == exact["dice_volume_mask"] == 1.0
    assert exact["largest_difference"] < 1e-4
    assert exact["seconds"] > 0
    assert all(row.get("reason") or row["status"] == "passed" for row in others)


def test_what_cannot_run_and_what_disagrees_have_rows(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = {
        "ort": engines.BACKENDS["ort"],
        "abacus": engines.Backend(f"{__name__}:AbsentEngine"),
        "broken": engines.Backend(f"{__name__}:BrokenEngine"),
    }
    monkeypatch.setattr("cnnres_infer.engines.BACKENDS", backends)
    monkeypatch.setattr("export.parity.BACKENDS", backends)
    done = CliRunner().invoke(app, ["parity", str(volume), "--repeats", "1"])
    assert isinstance(done.exception, VerificationError)
    assert str(done.exception) == "disagrees with PyTorch: broken int8, broken fp32"
    lines = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    rows = {name.strip(): [cell.strip() for cell in cells] for _, name, *cells, _ in lines}
    assert next(iter(rows)) == "torch fp32"
    assert rows["torch fp32"][-2:] == ["1.00", ""]
    assert rows["ort fp32"][:3] == ["1.0000"] * 3
    assert rows["ort fp32"][-1] == "passed"
    assert rows["abacus fp32"][:6] == [""] * 6
    assert rows["abacus fp32"][-1].startswith("not")
    assert float(rows["broken fp32"][1]) < 0.9
    assert rows["broken fp32"][-1] == "failed"
    assert "abacus fp32: abacus is not installed; to fix it: buy one" in done.stdout


def test_a_checkpoint_in_place_of_the_bundles_weights(
    volume: Path, default_bundle: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    from network.cnnres import CNNRes

    bundle = Bundle.open(default_bundle)
    case = read_case(volume)
    checkpoint = tmp_path / "other.safetensors"
    save_file(CNNRes().state_dict(), checkpoint)
    with torch_engine(bundle) as ours, torch_engine(bundle, checkpoint) as other:
        a, b = (volume_reference(bundle, engine, case) for engine in (ours, other))
    assert a.volumes == b.volumes
    assert np.abs(a.probabilities - b.probabilities).max() > 0.1
    save_file(CNNRes(2).state_dict(), checkpoint)
    with pytest.raises(BundleError, match="2 channels"):
        torch_engine(bundle, checkpoint)


@pytest.mark.slow
def test_errors_are_one_line(volume: Path, tmp_path: Path) -> None:
    for arguments in (
        ("reference", volume, "--out", tmp_path / "r.npz", "--modality", "ct"),
        ("parity", tmp_path / "none.nii"),
    ):
        done = export(*arguments)
        assert done.returncode in (2, 3)
        assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
