"""What the HTML report says, without a browser."""

import base64
import gzip
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from cnnres_infer import Predictor
from cnnres_infer.codes import Notice, WarningCode
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.mask import Lesion, Mask
from cnnres_infer.core.provenance import Skipped
from cnnres_infer.core.result import Result
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import UsageError
from cnnres_infer.outputs import page as pages
from cnnres_infer.outputs import viewer
from cnnres_infer.outputs.report_page import html_page
from cnnres_infer.outputs.writers import html
from cnnres_infer.outputs.writers.overlay import display_white
from tests.conftest import blob_volume
from tests.fakes.dicom import Scan, classic_images, save, siemens
from tests.outputs.pages import Page

NASTY = "</script><img src=x onerror=alert(1)>\u202e\x1b]0;\"'&"
ASSETS = Path(pages.__file__).parent / "assets"
PROGRAM = ASSETS / "niivue" / "niivue.umd.js"
needs_viewer = pytest.mark.skipif(
    not PROGRAM.exists(), reason="this checkout was installed without the viewer"
)


@pytest.fixture(scope="module")
def result(bright_bundle: Path) -> Result:
    with Predictor.load(bright_bundle) as predictor:
        return predictor.predict(blob_volume()[0])


@pytest.fixture
def without_viewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as a build leaves it that could not fetch the viewer."""
    assets = shutil.copytree(ASSETS, tmp_path / "assets", ignore=shutil.ignore_patterns("*.umd.js"))
    monkeypatch.setattr(pages, "_ASSETS", assets)
    return Path(assets)


def with_rejected(result: Result) -> Result:
    rejected = np.zeros_like(result.mask.data)
    rejected[40:43, 30:33, 8:10] = 1
    lesion = Lesion(18, 0.56, (41.0, 31.0, 8.5), (-25.0, -10.0, -5.0), 1.04, 0.00081, 0.12)
    mask = Mask(rejected, result.volume.grid)
    return replace(result, rejected=(lesion,), rejected_mask=mask)


def text_of(page: str) -> str:
    body = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(" ".join(Page(body).words).split())


def embedded(page: str) -> dict[str, Any]:
    (data,) = re.findall(r'id="viewer-data">(.*?)</script>', page, flags=re.DOTALL)
    found: dict[str, Any] = json.loads(data)
    return found


def voxels(text: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    content = gzip.decompress(base64.b64decode(text))
    image = nibabel.Nifti1Image.from_bytes(content)
    return image.get_fdata(), image.affine


def test_the_sections_come_in_order(result: Result) -> None:
    notice = Notice(WarningCode.MASK_LARGE, "very <large>")
    page = html_page(replace(with_rejected(result), warnings=(notice,)))
    words = text_of(page)
    order = (
        "Lesion report: blob",
        "Research use only; not a medical device.",
        "W-MASK-LARGE very <large>",
        "Findings",
        "In the mask",
        "Rejected, since too few of their voxels restrict diffusion",
        "Viewer",
        "Agreement with PyTorch",
        result.provenance.bundle_sha256,
    )
    places = [words.index(part) for part in order]
    assert places == sorted(places)
    assert page.index("data:image/png") > page.index("W-MASK-LARGE")


def test_lesions_are_listed_with_their_adc(result: Result) -> None:
    words = text_of(html_page(with_rejected(result)))
    (lesion,) = result.lesions
    assert f"1 {lesion.volume_ml:.2f} {lesion.voxels} R 20, A 10, S 5" in words
    assert "not known not known not known" in words
    assert "1 0.56 18 L 25, P 10, I 5 41, 31, 9 810 1.04 12.0 %" in words
    assert "rejected by ADC 1 (0.56 ml)" in words
    assert "Rejected" not in text_of(html_page(result))


def test_halves_are_rounded_away_from_zero(result: Result) -> None:
    lesion = replace(result.lesions[0], centre_mm=(-27.5, 0.4, -12.5), centre_voxel=(2.5, 1.5, 0.0))
    words = text_of(html_page(replace(result, lesions=(lesion,))))
    assert f"{lesion.voxels} L 28, A 0, I 13 3, 2, 0" in words


def test_what_messages_have_in_backticks_is_code(result: Result) -> None:
    notice = Notice(WarningCode.BRAIN_SIZE, "implausible; give `brain_mask`, or <`x`>")
    skipped = Skipped("ort", "int8", 'no driver; use `backend="ort"`', expected=False)
    made = replace(result.provenance, skipped=(skipped,))
    page = html_page(replace(result, warnings=(notice,), provenance=made))
    assert "give <code>brain_mask</code>, or &lt;<code>x</code>&gt;" in page
    assert "use <code>backend=&quot;ort&quot;</code>" in page
    assert "`" not in text_of(page)


def test_a_long_list_of_lesions_is_cut_and_says_so(result: Result) -> None:
    lesions = tuple(replace(result.lesions[0], volume_ml=1.0, voxels=1000 + i) for i in range(53))
    words = text_of(html_page(replace(result, lesions=lesions)))
    assert "1049" in words
    assert "1050" not in words
    assert "and 3 smaller ones of 3.00 ml together, which the JSON report lists" in words


def test_an_empty_mask_is_a_result(result: Result) -> None:
    empty = Mask(np.zeros_like(result.mask.data), result.volume.grid)
    words = text_of(html_page(replace(result, mask=empty, lesions=())))
    assert "No lesion was found." in words
    assert "lesion volume 0.00 ml" in words


def test_parity_figures_are_told_or_missed(result: Result) -> None:
    checked = result.provenance.verification
    assert checked is not None
    words = text_of(html_page(result))
    assert "agrees with PyTorch" in words
    assert f"mean Dice {checked.dice_mean:.4f}" in words
    unchecked = replace(result, provenance=replace(result.provenance, verification=None))
    assert "The engine was not checked before this run." in text_of(html_page(unchecked))


def test_names_are_escaped_wherever_they_stand(result: Result) -> None:
    made = replace(result.provenance, inputs={"dwi": NASTY}, model=NASTY, brain=NASTY)
    nasty = replace(
        result,
        volume=replace(result.volume, name=NASTY),
        provenance=made,
        warnings=(Notice(WarningCode.MASK_EMPTY, NASTY),),
        diffusion=replace(result.diffusion, note=NASTY),
    )
    page = html_page(nasty, {NASTY: NASTY})
    assert "<img src=x" not in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    tags = [tag for tag, _ in Page(page).tags]
    assert tags.count("img") == 1
    assert page.count("</script>") == tags.count("script")
    assert page.count("&lt;/script&gt;") == 9


def test_only_the_pages_own_scripts_and_styles_may_run(result: Result) -> None:
    page = html_page(result)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    scripts = re.findall("<script>(.*?)</script>", page, flags=re.DOTALL)
    static = re.sub("<script.*?</script>", "", page, flags=re.DOTALL)
    styles = re.findall("<style>(.*?)</style>", static, flags=re.DOTALL)
    for texts, name in ((scripts, "script-src"), (styles, "style-src")):
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
        assert rules[name] == (" ".join(hashes) or "'none'")
    assert not re.search(r'<[^>]* (src|href)="(?!data:image/png;base64,)', static)
    assert " style=" not in static


@needs_viewer
def test_the_page_holds_the_volume_and_its_masks(result: Result) -> None:
    result = with_rejected(result)
    data = embedded(html_page(result))
    found, affine = voxels(data["volume"])
    np.testing.assert_array_equal(found, result.volume.data)
    np.testing.assert_allclose(affine, result.volume.grid.affine, atol=1e-4)
    assert [mask["id"] for mask in data["masks"]] == ["lesions", "rejected"]
    assert result.rejected_mask is not None
    for mask, expected in zip(data["masks"], (result.mask, result.rejected_mask), strict=True):
        np.testing.assert_array_equal(voxels(mask["nifti"])[0], expected.data)


@needs_viewer
def test_intensities_that_are_no_integers_keep_16_bits(result: Result) -> None:
    scaled = replace(result.volume, data=result.volume.data * np.float32(0.37) - 5)
    page = html_page(replace(result, volume=scaled))
    found, _ = voxels(embedded(page)["volume"])
    extent = float(scaled.data.max() - scaled.data.min())
    np.testing.assert_allclose(found, scaled.data, atol=extent / 65535)
    assert "in 65,536 steps" in page


@needs_viewer
def test_a_usual_volume_stays_below_6_mb(result: Result) -> None:
    """Noise, which no compression makes smaller, on the usual grid."""
    shape = (112, 112, 73)
    grid = Grid(shape, np.diag([2.0, 2.0, 2.0, 1.0]))
    data = np.random.default_rng(1).gamma(2, 150, shape).astype(np.float32)
    volume = Volume(data, grid, "noise")
    mask = Mask((data > 900).astype(np.uint8), grid)
    page = html_page(replace(result, volume=volume, mask=mask, brain=mask))
    assert len(page.encode()) < 6e6
    words = text_of(page)
    assert "To keep this page small, the intensities are stored in 256 steps" in words
    found, _ = voxels(embedded(page)["volume"])
    white = display_white(data)
    shown = data < 2 * white
    np.testing.assert_allclose(found[shown], data[shown], atol=2 * white / 255)


@needs_viewer
def test_a_volume_that_browsers_cannot_open_is_left_out(
    result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "_MAX_EMBEDDED", 1000)
    page = html_page(result)
    assert "No viewer: the volume would take" in text_of(page)
    assert "viewer-data" not in page
    assert len(page) < 1e6


@pytest.mark.usefixtures("without_viewer")
def test_a_build_without_the_viewer_says_so(result: Result) -> None:
    page = html_page(result)
    assert "No viewer: this build of cnnres-infer has no interactive viewer." in text_of(page)
    assert "<script" not in page
    assert "data:image/png" in page
    version, problem = viewer.version_or_problem()
    assert version == ""
    assert "no interactive viewer" in problem


def test_an_altered_viewer_is_not_used(result: Result, without_viewer: Path) -> None:
    (without_viewer / "niivue" / PROGRAM.name).write_text("alert(1)")
    page = html_page(result)
    assert "is not the file of NiiVue" in text_of(page)
    assert "alert(1)" not in page


@needs_viewer
def test_the_licence_of_the_viewer_goes_with_it(result: Result) -> None:
    words = text_of(html_page(result))
    assert "Copyright (c) 2021, Niivue" in words
    assert "</script" not in PROGRAM.read_text(encoding="utf-8")


def test_the_patient_is_named_only_on_request(bright_bundle: Path, tmp_path: Path) -> None:
    image, _ = blob_volume()
    who = {
        "PatientName": "Doe^Jane<b>",
        "PatientID": "4711",
        "PatientBirthDate": "19500102",
        "InstitutionName": "St. Elsewhere",
    }
    trace = Scan(image.data.astype(np.uint16), image.grid.affine, 1000.0, "trace", attributes=who)
    study = tmp_path / "study"
    save(study, classic_images([trace], siemens))
    with Predictor.load(bright_bundle) as predictor:
        result = predictor.predict(study)
    formats = ("mask", "html")
    saved = result.save(tmp_path / "out", formats)
    words = text_of(saved["html"].read_text(encoding="utf-8"))
    assert not re.search("Doe|4711|1950|Elsewhere", words)
    shutil.rmtree(study)  # as a service may, that has moved it
    saved = result.save(tmp_path / "named", formats, identify=True)
    words = text_of(saved["html"].read_text(encoding="utf-8"))
    assert "patient's name Doe^Jane<b> patient ID 4711 date of birth 19500102" in words
    assert "institution St. Elsewhere" in words
    assert words.index("Warnings") < words.index("Doe^Jane") < words.index("Findings")
    with pytest.raises(UsageError, match="leave out `identify`"):
        result.save(tmp_path / "none", identify=True)
    assert not (tmp_path / "none").exists()


def test_nifti_names_no_patient(result: Result) -> None:
    page = html.render(result, identify=True).decode()
    assert "Patient and study The input names neither." in text_of(page)
