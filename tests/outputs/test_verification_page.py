import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.outputs.verification_page import _REFERENCE_LINE, _histogram, html_page
from cnnres_infer.outputs.writers.overlay import OUTLINE
from cnnres_infer.verification.agreement import Comparison
from cnnres_infer.verification.report import VerificationReport
from tests.cli.test_cli import run
from tests.conftest import BundleMaker
from tests.outputs.pages import Page


def colours(picture: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()} & {
        OUTLINE,
        _REFERENCE_LINE,
    }


@pytest.fixture
def comparison() -> Comparison:
    """Twelve images: one empty, one missed by the engine, one shifted, the others correct."""
    images = np.full((12, 1, 32, 32), 0.4, np.float32)
    reference = np.zeros_like(images)
    reference[1:, :, 10:20, 10:20] = 0.9
    output = reference.copy()
    output[3] = 0
    output[5] = np.roll(output[5], 2, axis=1)
    output[7, 0, 0, 0] = 0.2
    names = tuple(f"slice <{i}>" for i in range(12))
    return Comparison("12 slices of <b>&", names, images, output, reference, MaskSpec(0.5, 0.0))


def page_of(comparison: Comparison, bundle: Bundle) -> tuple[Page, str]:
    info = EngineInfo("ort", "<Provider>", Precision.FP32, "fp32", 2, {"onnx<runtime": "1"})
    text = html_page(VerificationReport.of(comparison, info, bundle))
    return Page(text), text


def test_a_page_is_complete_and_self_contained(
    comparison: Comparison, make_bundle: BundleMaker
) -> None:
    bundle = Bundle.open(make_bundle(name="<script>alert(1)</script>"))
    page, text = page_of(comparison, bundle)
    words = " ".join(page.words)
    assert "Failed: ort in fp32 disagrees with PyTorch" in words
    for part in ("<script>alert(1)</script>", "<Provider>", "onnx<runtime 1", bundle.digest):
        assert part in words
    assert "12 slices of <b>&" in words
    assert "://" not in text
    assert not {"script", "link", "iframe", "b"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import", text)


def test_the_worst_slices_come_first(comparison: Comparison, bright_bundle: Path) -> None:
    page, _ = page_of(comparison, Bundle.open(bright_bundle))
    alternatives = [str(attributes["alt"]) for tag, attributes in page.tags if tag == "img"]
    assert len(alternatives) == 8
    assert alternatives[0] == (
        "slice <3>: Dice 0.0000, 100 flipped pixels, lesion of 100 pixels in the reference"
    )
    assert alternatives[1].startswith("slice <5>: Dice 0.8000, 40 flipped")
    assert alternatives[2].startswith("slice <7>: Dice 1.0000")
    assert not any("<0>" in text for text in alternatives)


def test_a_picture_shows_input_reference_and_engine(
    comparison: Comparison, bright_bundle: Path
) -> None:
    page, _ = page_of(comparison, Bundle.open(bright_bundle))
    black, shifted = page.pictures()[:2]
    assert shifted.shape[1] == 3 * shifted.shape[0]
    plain, expected, found = np.split(shifted, 3, axis=1)
    assert (colours(plain), colours(expected), colours(found)) == (
        set(),
        {_REFERENCE_LINE},
        {OUTLINE},
    )
    rows = [
        np.nonzero((t == c).all(axis=2))[0].mean()
        for t, c in ((expected, _REFERENCE_LINE), (found, OUTLINE))
    ]
    assert rows[1] - rows[0] == pytest.approx(6)
    assert colours(black) == {_REFERENCE_LINE}


def test_a_page_says_that_there_is_nothing_to_show(bright_bundle: Path) -> None:
    nothing = np.zeros((2, 1, 32, 32), np.float32)
    comparison = Comparison("none", ("a", "b"), nothing, nothing, nothing, MaskSpec(0.5, 0.0))
    page, _ = page_of(comparison, Bundle.open(bright_bundle))
    assert "No slice has a lesion in either mask." in page.words
    assert not page.pictures()


def test_every_value_falls_into_one_bin() -> None:
    values = [0.0, 0.3, 0.8, 0.96, 0.9999, 1.0, 1.0]
    page = Page(_histogram(values))
    texts = [word for word in page.words if word.strip()]
    counts = [int(text) for text in texts[::2]]
    assert counts == [2, 0, 1, 0, 1, 0, 0, 0, 1, 2]
    assert texts[1::2][-2:] == ["0.999–1", "1"]
    heights = [int(str(a["height"])) for tag, a in page.tags if tag == "rect"]
    assert heights == [160, 0, 80, 0, 80, 0, 0, 0, 80, 160]


@pytest.fixture
def reference_bundle(make_bundle: BundleMaker) -> Path:
    """A bundle with three reference slices and known outputs."""
    images = np.zeros((3, 1, 160, 160), np.uint8)
    images[1:, :, 40:120, 40:120] = 100
    images[2, :, 60:80, 60:80] = 240
    above = images.astype(np.float32) / 255 - np.float32(0.8)
    content = io.BytesIO()
    np.savez(content, images=images, probabilities=1 / (1 + np.exp(-60 * above)))
    folder = make_bundle()
    manifest = json.loads((folder / "model.json").read_text())
    manifest["sha256"]["reference.npz"] = hashlib.sha256(content.getvalue()).hexdigest()
    (folder / "reference.npz").write_bytes(content.getvalue())
    (folder / "model.json").write_text(json.dumps(manifest))
    return folder


def test_the_command_writes_a_page(reference_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    options = ("--backend", "ort", "--bundle", reference_bundle, "--html", path)
    done = run("verify", *options, "--json")
    assert done.returncode == 0, done.stderr
    entry = json.loads(done.stdout)
    assert entry["outputs"] == [str(path)]
    page = Page(path.read_text(encoding="utf-8"))
    words = " ".join(page.words)
    assert "Passed: ort in fp32 agrees with PyTorch on this machine." in words
    assert entry["bundle"]["sha256"] in words
    (picture,) = page.pictures()
    assert colours(picture) == {OUTLINE, _REFERENCE_LINE}
    before = path.read_bytes()
    again = run("verify", *options)
    assert again.returncode == 3
    assert "overwrite" in again.stderr
    assert path.read_bytes() == before
    told = run("verify", *options, "--overwrite")
    assert told.returncode == 0
    assert told.stdout.endswith(f"\n  {path}\n")
    assert "report.html" not in run("verify", *options[:-2]).stdout
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
