import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from cnnres_infer.bundle.bundle import REFERENCE, Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import ModelFile
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.errors import BundleError
from cnnres_infer.selection.offers import open_engine
from cnnres_infer.verification.agreement import GATES, Agreement, compare, dice, load_reference
from tests.cli.test_cli import run
from tests.conftest import BundleMaker

masks = arrays(np.bool_, (6, 5))

HALF = MaskSpec(0.5, 0.0)


@given(masks, masks)
def test_dice(a: np.ndarray, b: np.ndarray) -> None:
    value = dice(a, b)
    assert 0 <= value <= 1
    assert value == dice(b, a)
    assert dice(a, a) == 1.0
    assert (value == 1.0) == bool((a == b).all())


def probabilities(*areas: int) -> FloatArray:
    output = np.zeros((len(areas), 1, 20, 20), np.float32)
    for image, area in zip(output, areas, strict=True):
        image.reshape(-1)[:area] = 0.9
    return output


def test_empty_slices_do_not_inflate_the_mean() -> None:
    agreement = Agreement.of(
        probabilities(0, 0, 100, 5), probabilities(0, 3, 60, 5), MaskSpec(0.5, 0.0)
    )
    assert agreement.slices == (None, 0.0, 0.75, 1.0)
    assert (agreement.both_empty, agreement.one_empty) == (1, 1)
    assert agreement.mean == pytest.approx(1.75 / 3)
    assert agreement.tail == 0.75
    assert agreement.flipped_pixels == 43
    assert agreement.pooled == pytest.approx(2 * 65 / (105 + 68))
    assert agreement.largest_difference == pytest.approx(0.9)
    assert not agreement.passes(GATES[Precision.INT8])


def test_masks_that_are_all_empty_agree() -> None:
    agreement = Agreement.of(probabilities(0, 0), probabilities(0, 0), HALF)
    assert agreement.passes(GATES[Precision.FP32])
    assert agreement.both_empty == 2


@pytest.mark.parametrize("precision", ["fp32"])
def test_the_default_bundle_agrees_on_this_machine(default_bundle: Path, precision: str) -> None:
    bundle = Bundle.open(default_bundle)
    with open_engine(bundle, "ort", precision) as engine:
        agreement = compare(engine, bundle).agreement
    assert agreement.passes(GATES[Precision(precision)])
    assert agreement.largest_difference <= 1e-5
    assert len(agreement.slices) == 64
    assert len(agreement.counted) >= 30


def test_the_reference_includes_no_tiny_large_and_multiple_lesions(default_bundle: Path) -> None:
    import cc3d

    _, reference = load_reference(Bundle.open(default_bundle))
    lesions = Bundle.open(default_bundle).spec.mask.apply(reference[:, 0])
    areas = lesions.sum(axis=(1, 2))
    assert (areas == 0).sum() >= 8
    assert ((areas > 0) & (areas <= 30)).sum() >= 3
    assert (areas > 300).sum() >= 3
    several = [cc3d.connected_components(mask, connectivity=8).max() > 1 for mask in lesions]
    assert sum(several) >= 2


BREAKS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "scaled weights": lambda output: output * 0.7,
    "upside down": lambda output: output[:, :, ::-1],
    "saturated": lambda output: np.minimum(output, 0.3),
    "black": np.zeros_like,
    "shifted by a pixel": lambda output: np.roll(output, 1, axis=3),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_engine_fails(
    default_bundle: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    bundle = Bundle.open(default_bundle)
    with open_engine(bundle, "ort", "fp32") as engine:
        honest = engine.run
        monkeypatch.setattr(engine, "run", lambda images: BREAKS[broken](honest(images)))
        agreement = compare(engine, bundle).agreement
    assert not agreement.passes(GATES[Precision.INT8])


def test_the_command(default_bundle: Path) -> None:
    done = run("verify", "--json")
    assert done.returncode == 0, done.stderr
    entry = json.loads(done.stdout)
    assert entry["status"] == "passed"
    assert entry["agreement"]["slices"] == 64
    assert "passed" in run("verify").stdout


def test_a_bundle_with_the_reference_of_another_model_fails(
    default_bundle: Path, make_bundle: BundleMaker
) -> None:
    folder = make_bundle()
    manifest = json.loads((folder / "model.json").read_text())
    original = json.loads((default_bundle / "model.json").read_text())
    manifest["sha256"]["reference.npz"] = original["sha256"]["reference.npz"]
    (folder / "reference.npz").write_bytes((default_bundle / "reference.npz").read_bytes())
    (folder / "model.json").write_text(json.dumps(manifest))
    done = run("verify", "--bundle", folder)
    assert done.returncode == 4
    assert "failed" in done.stdout
    assert "do not use" in done.stderr


def test_a_bundle_without_reference(make_bundle: BundleMaker) -> None:
    bundle = Bundle.open(make_bundle())
    (bundle.folder / REFERENCE).unlink()
    engine = OrtEngine.open(ModelFile("fp32", bundle.model("fp32")), Precision.FP32, 1)
    with pytest.raises(BundleError, match="reference"):
        compare(engine, bundle)
