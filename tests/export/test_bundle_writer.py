import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cnnres_infer.bundle.bundle import REFERENCE, Bundle
from cnnres_infer.bundle.manifest import spec_from_json
from cnnres_infer.bundle.signature import SIGNATURE
from cnnres_infer.engines.base import run_all
from cnnres_infer.errors import BundleError, OutputExistsError, UsageError, VerificationError
from cnnres_infer.selection.offers import open_engine
from cnnres_infer.verification.agreement import load_reference
from export import bundle_writer
from export.bundle_writer import seal, write_bundle
from export.reference import _spread, reference_slices
from network.checkpoint import load_checkpoint
from network.cnnres import CNNRes
from tests.narrow import NARROW, narrow_network
from training.data import SPEC

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def about() -> dict[str, dict[str, object]]:
    content: dict[str, dict[str, object]] = json.loads(
        (ROOT / "export" / "cnnres-dwi-flair.json").read_text()
    )
    content["input"]["channels"] = 1
    # Of one size, which is exported three times as fast; several are in `test_crop_bundle`.
    content["input"]["frame"] = "whole"
    return content


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "weights.safetensors"
    save_file(narrow_network().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> CNNRes:
    return load_checkpoint(checkpoint, widths=NARROW)


@pytest.fixture(scope="module", autouse=True)
def _few_phantoms() -> Iterator[None]:
    """As many as have 64 slices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.reference._PHANTOMS", 4)
        yield


@pytest.fixture(scope="module")
def bundle(
    network: CNNRes, about: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    out = tmp_path_factory.mktemp("out") / "bundle"
    write_bundle(network, spec_from_json(about), about, out)
    return Bundle.open(out)


def test_the_bundle_is_whole(bundle: Bundle) -> None:
    names = {path.name for path in bundle.folder.iterdir()}
    assert names == {
        "model.json",
        "model.fp32.onnx",
        "model.fp32-cpu.onnx",
        "model.fp16.onnx",
        REFERENCE,
        "MODEL_CARD.md",
    }
    assert set(bundle.sha256) == names - {"model.json"}
    for name in bundle.sha256:
        bundle.read(name)


def test_the_reference_is_what_the_engine_gives(bundle: Bundle) -> None:
    with np.load(bundle.folder / REFERENCE, allow_pickle=False) as archive:
        images, probabilities = archive["images"], archive["probabilities"]
    assert images.shape == (64, 1, 160, 160)
    assert images.dtype == np.uint8
    assert probabilities.dtype == np.float32
    with open_engine(bundle, "ort", "fp32") as engine:
        output = run_all(engine, images[:4].astype(np.float32) / np.float32(255))
    assert np.abs(output - probabilities[:4]).max() <= 1e-5
    assert np.ptp(probabilities) > 0.5
    assert len(np.unique((probabilities > 0.5).sum(axis=(1, 2, 3)))) > 32


def test_the_training_describes_what_it_feeds(about: dict[str, object]) -> None:
    # Whole slices are stored for training, which then draws its own frames.
    assert replace(spec_from_json(about).slices, frame=SPEC.frame) == SPEC


def test_weights_come_back_from_the_bundle(bundle: Bundle, network: CNNRes) -> None:
    images = torch.rand(1, 1, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        trained = network(images)
        again = load_checkpoint(bundle.folder / "model.fp32.onnx", widths=NARROW)(images)
    assert (trained - again).abs().max() <= 1e-5
    assert trained.max() - trained.min() > 0.3


def test_nothing_is_overwritten_unasked(
    bundle: Bundle, network: CNNRes, about: dict[str, object]
) -> None:
    with pytest.raises(OutputExistsError):
        write_bundle(network, spec_from_json(about), about, bundle.folder)


def test_a_wrong_export_writes_nothing(
    network: CNNRes,
    bundle: Bundle,
    about: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = {name: bundle.model(name) for name in bundle.variants}
    monkeypatch.setattr(bundle_writer, "reference_slices", lambda *_: load_reference(bundle))
    monkeypatch.setattr(bundle_writer, "variants", lambda *_: models)
    monkeypatch.setattr(bundle_writer, "_computed", lambda _model, images: images[:, :1] * 0 + 2)
    with pytest.raises(VerificationError, match="fp32") as caught:
        write_bundle(network, spec_from_json(about), about, tmp_path / "b")
    assert caught.value.code == "E-VERIFY"
    assert not list(tmp_path.iterdir())


def test_only_a_bundle_or_an_empty_folder_is_replaced(
    network: CNNRes, about: dict[str, object], tmp_path: Path
) -> None:
    spec, out = spec_from_json(about), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="neither empty nor a bundle"):
        write_bundle(network, spec, about, out, overwrite=True)
    assert (out / "thesis.txt").read_text() == "years of work"
    (out / "thesis.txt").unlink()
    for content in ("first", "second"):
        bundle_writer._check_replaceable(out)
        with bundle_writer._replacing(out) as folder:
            (folder / "model.json").write_text(content)
            (folder / content).touch()
        assert {path.name for path in out.iterdir()} == {"model.json", content}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_old_folder_comes_back_if_the_new_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.json").write_text("old")
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if (path / "new").exists():
            raise OSError("no space")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no space"), bundle_writer._replacing(out) as folder:
        (folder / "new").touch()
    assert (out / "model.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_sealing_takes_files_in_and_out(bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.folder, tmp_path / "b")
    (folder / SIGNATURE).write_bytes(b"of what stood before")
    variants = {"fp32": "model.fp32.onnx"}
    manifest = {**bundle.manifest, "variants": variants}
    seal(folder, manifest, {"more.json": b"{}"}, removed={"model.fp16.onnx"})
    again = Bundle.open(folder)
    names = {path.name for path in folder.iterdir()}
    assert set(again.sha256) == names - {"model.json"}
    assert again.read("more.json") == b"{}"
    assert not names & {"model.fp16.onnx", SIGNATURE}


def test_sealing_again_keeps_the_bundle_valid(bundle: Bundle) -> None:
    seal(bundle.folder, {**bundle.manifest, "note": "more"})
    again = Bundle.open(bundle.folder)
    assert again.manifest["note"] == "more"
    assert again.read("MODEL_CARD.md").startswith(b"# cnnres-dwi-flair")


def test_the_reference_spreads_over_areas() -> None:
    areas = np.array([0] * 10 + [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 500, 501, 502, 503])
    chosen = _spread(areas, 12)
    assert len(set(chosen)) == 12
    assert (areas[chosen] == 0).sum() == 3
    assert {1, 2, 512} <= set(areas[chosen])
    assert len(_spread(np.zeros(80, np.int64), 64)) == 64
    assert len(_spread(np.arange(1, 80), 64)) == 64


@pytest.mark.parametrize("name", ["weights.pt", "weights.pkl", "missing.safetensors"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError):
        load_checkpoint(tmp_path / name)


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(BundleError, match="CNN-Res"):
        load_checkpoint(tmp_path / "a.safetensors")
    (tmp_path / "b.onnx").write_bytes(b"no model")
    with pytest.raises(BundleError, match="CNN-Res"):
        load_checkpoint(tmp_path / "b.onnx")


def test_a_network_without_a_steady_slice_has_no_reference(
    about: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.reference._PHANTOMS", 1)
    monkeypatch.setattr("export.reference.dice", lambda *_: 0.0)
    with pytest.raises(VerificationError, match="no reference slices"):
        reference_slices(CNNRes(widths=NARROW).eval(), spec_from_json(about))
