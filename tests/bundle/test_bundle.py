import json
from dataclasses import replace
from pathlib import Path

import pytest

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.bundle.manifest import MANIFEST, spec_from_json, spec_to_json
from cnnres_infer.core.case import Modality
from cnnres_infer.core.diffusion import RestrictionSpec
from cnnres_infer.errors import BundleError
from tests.conftest import BundleMaker


def test_open_and_read(bright_bundle: Path) -> None:
    bundle = Bundle.open(bright_bundle)
    assert bundle.spec.name == "bright"
    assert bundle.model("fp32") == (bright_bundle / "model.fp32.onnx").read_bytes()
    assert len(bundle.digest) == 64


def test_the_spec_survives_a_round_trip_through_json(bright_bundle: Path) -> None:
    bundle = Bundle.open(bright_bundle)
    assert spec_from_json(spec_to_json(bundle.spec)) == bundle.spec


def test_a_bundle_says_which_adc_counts_as_a_lesion_or_does_not(make_bundle: BundleMaker) -> None:
    for share, given in ((0.5, {}), (0.15, {"smallest_restricted_share": 0.15})):
        bounded = Bundle.open(make_bundle(diffusion={"relative_adc_below": 0.85, **given})).spec
        assert bounded.restriction == RestrictionSpec(0.85, share)
        assert spec_from_json(spec_to_json(bounded)) == bounded
    unbounded = Bundle.open(make_bundle()).spec
    assert unbounded.restriction is None
    assert "diffusion" not in spec_to_json(unbounded)


def test_a_changed_byte_is_refused(make_bundle: BundleMaker) -> None:
    folder = make_bundle()
    path = folder / "model.fp32.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256"):
        Bundle.open(folder).model("fp32")


def test_a_missing_file_is_refused(make_bundle: BundleMaker) -> None:
    folder = make_bundle()
    (folder / "model.fp32.onnx").unlink()
    with pytest.raises(BundleError, match="incomplete"):
        Bundle.open(folder).model("fp32")


def test_the_error_for_a_missing_bundle_says_how_to_create_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="python -m export"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"'])
def test_a_manifest_that_is_not_a_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=r"model\.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("fusion", {"rule": "vote", "dwi_weight": 0.5}),
        ("fusion", {}),
        ("diffusion", {}),
        ("diffusion", {"relative_adc_below": 0}),
        ("diffusion", {"relative_adc_below": "nan"}),
        ("diffusion", {"relative_adc_below": 0.85, "smallest_restricted_share": 0}),
        ("diffusion", {"relative_adc_below": 0.85, "smallest_restricted_share": 1.1}),
        ("diffusion", {"relative_adc_below": 0.85, "smallest_restricted_share": None}),
        ("diffusion", {"relative_adc_below": 0.85, "least_share": 0.15}),
        ("diffusion", [0.85]),
        ("diffusion", "0.85"),
        (
            "input",
            {"channels": 3, "modalities": ["dwi"], "size": 160, "spacing_mm": 1, "ceiling": 2},
        ),
        (
            "input",
            {"channels": 1, "modalities": ["ct"], "size": 160, "spacing_mm": 1, "ceiling": 2},
        ),
        (
            "input",
            {"channels": 1, "modalities": ["dwi"], "size": 150, "spacing_mm": 1, "ceiling": 2},
        ),
        (
            "input",
            {"channels": 1, "modalities": ["dwi"], "size": 1e9, "spacing_mm": 1, "ceiling": 2},
        ),
        (
            "input",
            {"channels": 1, "modalities": ["dwi"], "size": 160, "spacing_mm": 0, "ceiling": 2},
        ),
        (
            "input",
            {
                "channels": 1,
                "modalities": ["dwi"],
                "size": 160,
                "spacing_mm": 1,
                "ceiling": 2,
                "frame": "skull",
            },
        ),
        ("mask", {"threshold": 1.5, "smallest_lesion_ml": 0}),
        ("mask", {"threshold": "nan", "smallest_lesion_ml": 0}),
        ("variants", ["model.fp32.onnx"]),
        ("variants", {"fp32": "../model.fp32.onnx"}),
        ("variants", {"fp32": "/etc/passwd"}),
        ("sha256", {"..": "0"}),
        ("calibration", []),
        ("calibration", {"variants": []}),
        ("calibration", {"variants": {"bf16": False}}),
        ("calibration", {"variants": {"bf16": {}}}),
        ("calibration", {"variants": {"bf16": {"passed": "no"}}}),
    ],
)
def test_an_invalid_manifest_is_refused(make_bundle: BundleMaker, key: str, value: object) -> None:
    folder = make_bundle(**{key: value})
    with pytest.raises(BundleError):
        Bundle.open(folder)


def test_what_missed_the_accuracy_gate_is_known(make_bundle: BundleMaker) -> None:
    verdicts = {"bf16": {"passed": False}, "fp16": {"passed": True}}
    assert Bundle.open(make_bundle(calibration={"variants": verdicts})).failed == {"bf16"}
    assert Bundle.open(make_bundle(calibration={})).failed == frozenset()
    assert Bundle.open(make_bundle()).failed == frozenset()


def test_the_frame_is_whole_unless_the_manifest_says_otherwise(bright_bundle: Path) -> None:
    manifest = json.loads((bright_bundle / MANIFEST).read_text())
    assert "frame" not in manifest["input"]
    spec = spec_from_json(manifest)
    assert spec.slices.sides == (160,)
    assert "frame" not in spec_to_json(spec)["input"]
    manifest["input"]["frame"] = "brain"
    cut = spec_from_json(manifest)
    assert cut.slices.sides == (96, 128, 160)
    assert spec_to_json(cut)["input"]["frame"] == "brain"
    assert spec_from_json({**manifest, **spec_to_json(cut)}) == cut
    assert replace(cut.slices, size=64).sides == (64,)


def test_a_missing_variant_is_named(bright_bundle: Path) -> None:
    with pytest.raises(BundleError, match="int8"):
        Bundle.open(bright_bundle).model("int8-cpu")


def test_an_unlisted_file_is_refused(make_bundle: BundleMaker) -> None:
    folder = make_bundle()
    (folder / "extra").write_bytes(b"x")
    with pytest.raises(BundleError):
        Bundle.open(folder).read("extra")
    assert "extra" not in json.loads((folder / MANIFEST).read_text())["sha256"]


def test_shading_is_removed_from_the_modalities_that_the_manifest_names(
    bright_bundle: Path,
) -> None:
    manifest = json.loads((bright_bundle / MANIFEST).read_text())
    image = manifest["input"]
    found = {}
    for shading in ("none", "removed", "removed from dwi"):
        spec = spec_from_json({**manifest, "input": {**image, "shading": shading}})
        assert spec_from_json({**manifest, **spec_to_json(spec)}) == spec
        found[shading] = [spec.slices.of(modality).shading for modality in Modality]
    assert found == {
        "none": ["none", "none"],
        "removed": ["removed", "removed"],
        "removed from dwi": ["removed", "none"],
    }
    for wrong in ({"shading": "dwi"}, {"shading": "removed from dwi", "channels": 2}):
        with pytest.raises(BundleError, match="shading"):
            spec_from_json({**manifest, "input": {**image, **wrong}})
