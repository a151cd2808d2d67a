import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from calibration.calibrate import Calibration, Outcome, _write
from calibration.data import Split
from calibration.judge import Verdict
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.verification.agreement import Agreement

CALIBRATION = Calibration(8, 0, ("int8-cpu",))


def outcome(variant: str, *misses: str, content: bytes = b"") -> Outcome:
    images = np.ones((2, 1, 4, 4), np.float32)
    verdict = Verdict(Agreement.of(images, images, MaskSpec(0.5, 0.0)), {}, None, None)
    return Outcome(variant, "tried", "ort", verdict, misses, content=content)


def written(bundle: Bundle, outcomes: list[Outcome], overwrite: bool, level: float = 1.0) -> Bundle:
    images = np.full((2, 1, 4, 4), level, np.float32)
    _write(bundle, outcomes, images, Split((), ()), CALIBRATION, overwrite)
    again = Bundle.open(bundle.folder)
    for name in again.sha256:
        again.read(name)
    stored = {path.name for path in bundle.folder.iterdir()} - {"model.json"}
    assert set(again.sha256) == stored | again.derived.keys()
    return again


@pytest.fixture
def bundle(default_bundle: Path, tmp_path: Path) -> Bundle:
    folder = shutil.copytree(default_bundle, tmp_path / "bundle")
    manifest = json.loads((folder / "model.json").read_text())
    manifest["variants"].pop("int8-cpu", None)
    (folder / "model.json").write_text(json.dumps(manifest))
    return Bundle.open(folder)


def test_an_existing_variant_that_fails_is_removed_only_with_overwrite(bundle: Bundle) -> None:
    failed = [outcome("fp16", "too far off"), outcome("int8-cpu", "too far off", content=b"x")]
    kept = written(bundle, failed, overwrite=False)
    assert kept.variants == bundle.variants
    record = json.loads(kept.read("calibration.json"))
    assert record["variants"]["fp16"]["passed"] is False
    after = written(kept, failed, overwrite=True)
    assert set(after.variants) == set(bundle.variants) - {"fp16"}
    assert "model.fp16.onnx" in kept.derived
    assert not list(bundle.folder.glob("model.fp16.*"))


def test_a_variant_is_written_if_it_passes_and_removed_if_it_fails_later(
    bundle: Bundle,
) -> None:
    passed = written(bundle, [outcome("int8-cpu", content=b"network")], overwrite=False)
    assert passed.read(passed.variants["int8-cpu"]) == b"network"
    after = written(passed, [outcome("int8-cpu", "off", content=b"worse")], overwrite=True)
    assert "int8-cpu" not in after.variants
    assert not list(bundle.folder.glob("model.int8-cpu.*"))


def test_verdicts_that_are_not_renewed_stay(bundle: Bundle) -> None:
    """As that on bfloat16 does where the processor has none."""
    first = [outcome("bf16", "too far off"), outcome("fp16"), outcome("int8-cpu", content=b"one")]
    once = written(bundle, first, overwrite=True)
    assert once.failed == {"bf16"}
    again = written(once, [outcome("fp16"), outcome("int8-trt", "off", content=b"two")], True)
    record = json.loads(again.read("calibration.json"))
    verdicts = record["variants"]
    assert record["earlier"] == ["bf16", "int8-cpu"]
    assert list(verdicts) == ["bf16", "int8-cpu", "fp16", "int8-trt"]
    assert again.failed == {"bf16", "int8-trt"}
    assert again.manifest["calibration"]["variants"] == verdicts
    assert again.read(again.variants["int8-cpu"]) == b"one"


def test_a_pass_on_other_images_does_not_stay(bundle: Bundle) -> None:
    first = [outcome("bf16", "too far off"), outcome("int8-cpu", content=b"one")]
    once = written(bundle, first, overwrite=True)
    changed = {**once.manifest["input"], "ceiling": 2.5}
    (once.folder / "model.json").write_text(json.dumps({**once.manifest, "input": changed}))
    again = written(Bundle.open(once.folder), [outcome("fp16")], overwrite=True)
    record = json.loads(again.read("calibration.json"))
    assert record["earlier"] == ["bf16"]
    assert "int8-cpu" not in record["variants"]


def test_figures_of_variants_that_went_go(bundle: Bundle) -> None:
    once = written(bundle, [outcome("int8-cpu", content=b"one")], overwrite=True)
    manifest = {**once.manifest, "variants": {"fp32": once.variants["fp32"]}}
    (once.folder / "model.json").write_text(json.dumps(manifest))
    again = written(Bundle.open(once.folder), [outcome("fp16")], overwrite=True)
    assert list(json.loads(again.read("calibration.json"))["variants"]) == ["bf16", "fp16"]
