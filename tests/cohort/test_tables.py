"""Tables and the index: of what is on disk, escaped, and a valid BIDS derivative."""

import csv
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from cnnres_infer import __version__
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.cohort.case import Skip
from cnnres_infer.cohort.derivative import OWN, REBUILT, check_dataset, describe_dataset
from cnnres_infer.cohort.find import find_cases
from cnnres_infer.cohort.index_page import index_page
from cnnres_infer.cohort.markers import Records
from cnnres_infer.cohort.run import check_input, rebuild
from cnnres_infer.cohort.segment import segment
from cnnres_infer.cohort.tables import Entry, read_entries
from cnnres_infer.core.case import Modality
from cnnres_infer.errors import UsageError
from cnnres_infer.predictor import Predictor
from tests.cohort.support import settings, write_damaged, write_dataset, write_dwi
from tests.threads import in_threads


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, bright_bundle: Path) -> Path:
    """A cohort of two cases, one that failed and one without images."""
    folder = tmp_path_factory.mktemp("cohort")
    raw = write_dataset(folder / "raw", 2)
    write_damaged(raw / "sub-003/ses-a/dwi/sub-003_ses-a_dwi.nii.gz")
    write_dwi(raw / "sub-001/dwi/sub-001_rec-ADC_dwi.nii.gz", 3)
    (raw / "sub-004" / "anat").mkdir(parents=True)
    found = find_cases(raw)
    here = settings(folder / "out", bright_bundle, overlay=True, probabilities=True)
    describe_dataset(here.out, raw)
    with Predictor.load(bright_bundle, "ort", "fp32", self_check=False) as predictor:
        for case in found.cases:
            segment(case, here, lambda: predictor)
    for skip in found.skipped:
        Records(here.out).skip(skip)
    rebuild(here.out, 60)
    return here.out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_every_case_has_a_row(out: Path) -> None:
    cases = rows(out / "cases.tsv")
    assert [(row["name"], row["status"]) for row in cases] == [
        ("sub-001", "done"),
        ("sub-002", "done"),
        ("sub-003_ses-a", "failed"),
        ("sub-004", "skipped"),
    ]
    done, _, failed, skipped = cases
    assert done["inputs"] == "dwi,adc"
    assert done["backend"] == "ort"
    assert (out / done["mask"]).is_file()
    assert (failed["session_id"], failed["error"]) == ("ses-a", "E-NIFTI-TRUNCATED")
    assert skipped["reason"] == "no images in dwi/"


def test_rejected_lesions_are_listed_as_such(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (sidecar,) = copy.rglob("sub-001_*_mask.json")
    content = json.loads(sidecar.read_text())
    report = content[OWN]["report"]
    (kept,) = report["lesions"]["each"]
    adc = {"relative_adc": 1.1, "adc_mm2_s": 0.0006369791808538139, "restricted_share": 0.0}
    report["lesions"]["rejected"] = [
        {**kept, **adc, "volume_ml": 0.3, "voxels": 30},
        {**kept, **adc, "volume_ml": 0.12, "voxels": 12},
    ]
    report["diffusion"] |= {"checked": True, "relative_adc_below": 0.85}
    sidecar.write_text(json.dumps(content))
    rebuild(copy, 60)
    lesions = [row for row in rows(copy / "lesions.tsv") if row["name"] == "sub-001"]
    assert [(row["status"], row["lesion"], row["voxels"]) for row in lesions] == [
        ("kept", "1", str(kept["voxels"])),
        ("rejected", "1", "30"),
        ("rejected", "2", "12"),
    ]
    assert lesions[1]["adc_mm2_s"] == "0.000637"
    checked, unchecked = rows(copy / "cases.tsv")[:2]
    assert (checked["lesions"], checked["rejected"]) == ("1", "2")
    assert checked["rejected_ml"] == "0.42"
    assert float(checked["volume_ml"]) == pytest.approx(kept["volume_ml"], abs=1e-4)
    assert (checked["relative_adc_below"], unchecked["relative_adc_below"]) == ("0.85", "n/a")
    cells = re.findall(r'<td data-value="[^"]*" class="[^"]*">([^<]*)</td>', page_row(copy, 1))
    assert cells[-2:] == ["2", "checked"]
    assert page_row(copy, 2).count(">not checked<") == 1


def page_row(out: Path, number: int) -> str:
    """The row of a participant in the index, which has one case of each."""
    page = (out / "index.html").read_text()
    (row,) = [row for row in re.findall(r"<tr>.*</tr>", page) if f'"sub-{number:03d}"' in row]
    return str(row)


def test_lesions_are_those_of_the_sidecars(out: Path) -> None:
    lesions = rows(out / "lesions.tsv")
    assert lesions
    for row in lesions:
        (sidecar,) = out.rglob(f"{row['name']}_*_mask.json")
        content = json.loads(sidecar.read_text())[OWN]["report"]["lesions"]
        each = content["each"][int(row["lesion"]) - 1]
        assert row["status"] == "kept"
        assert float(row["volume_ml"]) == pytest.approx(each["volume_ml"], abs=1e-4)
        assert float(row["centre_z"]) == pytest.approx(each["centre_mm"][2], abs=1e-4)
        share = each["restricted_share"]
        assert row["restricted_share"] == ("n/a" if share is None else str(round(share, 4)))


@pytest.mark.parametrize("name", ["cases", "lesions"])
def test_every_column_is_described(out: Path, name: str) -> None:
    dictionary = json.loads((out / f"{name}.json").read_text())
    heading = (out / f"{name}.tsv").read_text().partition("\n")[0].split("\t")
    assert heading == list(dictionary)
    assert all(entry["Description"] for entry in dictionary.values())


def test_tables_are_those_of_what_is_there(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (mask,) = copy.rglob("sub-002_*_mask.nii.gz")
    mask.unlink()
    (copy / "cases.tsv").unlink()
    rebuild(copy, 60)
    assert [row["name"] for row in rows(copy / "cases.tsv")] == [
        "sub-001",
        "sub-003_ses-a",
        "sub-004",
    ]


def test_results_of_earlier_versions_are_listed(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    for sidecar in copy.rglob("sub-*_mask.json"):
        content = json.loads(sidecar.read_text())
        for lesion in content[OWN]["report"]["lesions"]["each"]:
            del lesion["restricted_share"]
        sidecar.write_text(json.dumps(content))
    rebuild(copy, 60)
    assert {row["restricted_share"] for row in rows(copy / "lesions.tsv")} == {"n/a"}


def test_the_description_names_the_models_of_the_masks(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    path = copy / "dataset_description.json"
    (only,) = json.loads(path.read_text())["GeneratedBy"]
    assert only["Version"] == __version__
    first, second = sorted(copy.rglob("sub-*_mask.json"))
    digest = json.loads(first.read_text())[OWN]["report"]["model"]["bundle_sha256"]
    assert digest in only["Description"]
    # What users add stays.
    mine = {"Name": "corrected by hand"}
    content = {**json.loads(path.read_text()), "Authors": ["A"], "GeneratedBy": [only, mine]}
    path.write_text(json.dumps(content))
    second.write_text(second.read_text().replace(digest, "f" * 64))
    rebuild(copy, 60)
    content = json.loads(path.read_text())
    assert content["Authors"] == ["A"]
    assert content["DatasetLinks"]
    *made_by, last = content["GeneratedBy"]
    assert len(made_by) == 2
    assert digest in made_by[0]["Description"]
    assert "f" * 64 in made_by[1]["Description"]
    assert last == mine
    # A model that made none of the masks is not named.
    first.write_text(first.read_text().replace(digest, "f" * 64))
    rebuild(copy, 60)
    assert digest not in path.read_text()


def test_processes_that_end_together_make_the_tables_once_or_twice(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    made = []

    def slow(folder: Path) -> list[Entry]:
        made.append(folder)
        time.sleep(0.5)
        return read_entries(folder)

    monkeypatch.setattr("cnnres_infer.cohort.run.read_entries", slow)
    in_threads(8, lambda _: rebuild(copy, 60))
    assert 1 <= len(made) <= 2
    # A process that finishes later makes them again.
    before = len(made)
    rebuild(copy, 60)
    assert len(made) == before + 1


def test_cells_and_the_page_are_escaped(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    evil = '=1\t2\n<script>alert("x")</script>\x1b[31m\u202e'
    Records(copy).skip(Skip("sub-evil", evil))
    rebuild(copy, 60)
    (row,) = [row for row in rows(copy / "cases.tsv") if row["name"] == "sub-evil"]
    assert row["reason"].startswith("'=1\\t2\\n")
    page = (copy / "index.html").read_text()
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_the_page_ranks_failures_warnings_and_volumes(out: Path) -> None:
    page = (out / "index.html").read_text()
    names = re.findall(r'<td data-value="(sub-[^"]*)"', page)
    assert names[0] == "sub-003_ses-a"
    assert names[-1] == "sub-004"
    assert page.count("data:image/jpeg") == 2
    assert 'href="sub-001/figures/sub-001_overlay.png"' in page
    done = {"status": "done", "lesions": 1, "participant_id": "sub-1"}
    entries = [
        Entry("small", {**done, "volume_ml": 1.0}),
        Entry("large", {**done, "volume_ml": 9.0}),
        Entry("warned", {**done, "volume_ml": 0.1}, messages=("W-X: look",)),
    ]
    ranked = re.findall(r'<td data-value="([a-z]+)" class=""><a', index_page(out, entries).decode())
    assert ranked == ["warned", "large", "small"]


def test_the_output_is_valid_bids(out: Path) -> None:
    validator = shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run(
        [validator, str(out), "--format", "json"], capture_output=True, text=True, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    # What is left to warn of is what nobody but the users can say.
    assert {issue["code"] for issue in issues} <= {"TOO_FEW_AUTHORS", "NO_AUTHORS"}
    assert json.loads(done.stdout)["summary"]["subjects"]


def test_other_datasets_are_left_alone(tmp_path: Path, out: Path) -> None:
    check_dataset(out)
    check_dataset(tmp_path / "new")
    (tmp_path / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "fmriprep"}]}')
    with pytest.raises(UsageError, match="another dataset"):
        check_dataset(tmp_path)
    with pytest.raises(UsageError, match="not a folder"):
        check_dataset(tmp_path / "dataset_description.json")


def test_files_of_others_are_left_alone(tmp_path: Path, out: Path, bright_bundle: Path) -> None:
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        *REBUILT,
        "README.md",
        ".bidsignore",
        "dataset_description.json",
    }
    for name in REBUILT:
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        with pytest.raises(UsageError, match=f"{name}: would be replaced"):
            check_dataset(tmp_path / name)
    # Also in a dataset of ours, which has other files of these names.
    here = settings(out, bright_bundle)
    for name in ("cases.tsv", "lesions.tsv"):
        with pytest.raises(UsageError, match=f"{name}: would be replaced"):
            check_input(out / name, here, Bundle.open(bright_bundle), Modality.DWI)


def test_damaged_records_and_sidecars_are_passed_by(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    before = [entry.name for entry in read_entries(copy)]
    (sidecar,) = copy.rglob("sub-002_*_mask.json")
    sidecar.write_text("{")
    (copy / ".cnnres" / "records" / "sub-004.json").write_bytes(b"\xff")
    assert [entry.name for entry in read_entries(copy)] == [before[0], before[2]]


def test_a_sidecar_that_lacks_something_costs_only_its_own_figures(
    out: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    before = rows(copy / "cases.tsv")
    (sidecar,) = copy.rglob("sub-002_*_mask.json")
    content = json.loads(sidecar.read_text())
    del content[OWN]["report"]["diffusion"]
    sidecar.write_text(json.dumps(content))
    rebuild(copy, 60)
    first, second, *others = rows(copy / "cases.tsv")
    assert [first, *others] == [before[0], *before[2:]]
    assert (second["status"], second["mask"]) == ("done", before[1]["mask"])
    assert "delete its mask" in second["notes"]
    assert "delete its mask" in page_row(copy, 2)


@pytest.mark.slow
def test_the_page_sorts_and_filters_in_a_browser(out: Path) -> None:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    pytest.importorskip("selenium")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = chromium
    for switch in ("--headless=new", "--no-sandbox"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with Chrome(options=options, service=ChromeService(driver)) as browser:
        browser.get((out / "index.html").as_uri())

        def shown() -> list[str]:
            rows = browser.find_elements("css selector", "#cases tbody tr")
            return [row.find_elements("tag name", "td")[1].text for row in rows if row.text]

        def click(heading: str) -> None:
            browser.find_element("xpath", f"//button[text()='{heading}']").click()

        by_warnings = shown()
        assert by_warnings[0] == "sub-003_ses-a"
        click("case")
        assert shown() == ["sub-004", "sub-003_ses-a", "sub-002", "sub-001"]
        click("case")
        assert shown() == ["sub-001", "sub-002", "sub-003_ses-a", "sub-004"]
        click("volume, ml")
        volumes = {row["name"]: row["volume_ml"] for row in rows(out / "cases.tsv")}
        assert shown()[0] == max(shown()[:2], key=lambda name: float(volumes[name]))
        browser.find_element("id", "search").send_keys("E-NIFTI")
        assert shown() == ["sub-003_ses-a"]
        picture = "return document.querySelector('#cases img').naturalWidth"
        assert browser.execute_script(picture) == 128
        assert browser.get_log("browser") == []
