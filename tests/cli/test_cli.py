import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from cnnres_infer import __version__
from cnnres_infer.outputs.writers import WRITERS
from cnnres_infer.readers.nifti.write import save_volume
from tests import commands
from tests.conftest import BundleMaker, blob_volume


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return commands.run("cnnres_infer", *arguments, cwd=cwd)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    image, _ = blob_volume()
    path = tmp_path / "in" / "sub 01_dwi.nii.gz"
    path.parent.mkdir()
    save_volume(path, image.data, image.grid)
    return path


def test_predict_is_the_default_command(volume: Path, bright_bundle: Path) -> None:
    before = volume.read_bytes()
    done = run(volume, "--bundle", bright_bundle)
    assert done.returncode == 0, done.stderr
    assert "1 lesion," in done.stdout
    names = {path.name for path in volume.parent.iterdir()}
    assert names == {
        "sub 01_dwi.nii.gz",
        "sub 01_dwi_lesion_mask.nii.gz",
        "sub 01_dwi_report.json",
        "sub 01_dwi_overlay.png",
    }
    assert volume.read_bytes() == before


def test_a_misspelled_command_is_no_volume(tmp_path: Path) -> None:
    refused = run("watc", "in", "out", cwd=tmp_path)
    assert refused.returncode == 2
    assert "did you mean watch?" in refused.stderr
    assert "E-FILE-MISSING" in run("watc.nii", cwd=tmp_path).stderr


def test_options_may_come_first(volume: Path, bright_bundle: Path, tmp_path: Path) -> None:
    done = run("-o", tmp_path / "out", "--prob", "--no-overlay", "--bundle", bright_bundle, volume)
    assert done.returncode == 0, done.stderr
    names = {path.name.removeprefix("sub 01_dwi_") for path in (tmp_path / "out").iterdir()}
    assert names == {"lesion_mask.nii.gz", "lesion_prob.nii.gz", "report.json"}


def test_json_is_the_only_standard_output(volume: Path, bright_bundle: Path) -> None:
    done = run(volume, "--json", "--bundle", bright_bundle)
    entry = json.loads(done.stdout)
    assert entry["status"] == "done"
    assert entry["lesions"]["count"] == 1
    assert all(Path(path).exists() for path in entry["outputs"])
    stored = json.loads((volume.parent / "sub 01_dwi_report.json").read_text())
    assert stored["lesions"] == entry["lesions"]


def test_flair_modality_and_brain_mask(volume: Path, bright_bundle: Path, tmp_path: Path) -> None:
    image, ball = blob_volume()
    brain = ((image.data > 0) & ~ball).astype(np.uint8)
    save_volume(tmp_path / "brain.nii.gz", brain, image.grid)
    common = ("--json", "--bundle", bright_bundle, "--overwrite", "-o", tmp_path / "out")
    flair = tmp_path / "flair.nii.gz"
    save_volume(flair, 2 * image.data, image.grid)
    both = json.loads(run(volume, "--flair", flair, *common).stdout)
    assert both["inputs"] == {"dwi": "sub 01_dwi", "flair": "flair"}
    assert both["lesions"]["count"] == 1
    alone = json.loads(run(volume, "--modality", "flair", *common).stdout)
    assert alone["inputs"] == {"flair": "sub 01_dwi"}
    masked = json.loads(run(volume, "--brain-mask", tmp_path / "brain.nii.gz", *common).stdout)
    assert masked["brain"] == "given"
    assert masked["lesions"]["count"] == 0


def test_quiet_prints_nothing(volume: Path, bright_bundle: Path) -> None:
    done = run(volume, "-q", "--bundle", bright_bundle)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_existing_outputs_are_refused(volume: Path, bright_bundle: Path) -> None:
    assert run(volume, "--bundle", bright_bundle).returncode == 0
    again = run(volume, "--bundle", bright_bundle)
    assert again.returncode == 3
    assert again.stderr.count("\n") == 1
    assert "--overwrite" in again.stderr
    assert run(volume, "--overwrite", "--bundle", bright_bundle).returncode == 0


def test_one_bad_volume_among_several(volume: Path, bright_bundle: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(volume.read_bytes()[:-20])
    done = run(bad, volume, "-o", tmp_path / "out", "--json", "--bundle", bright_bundle)
    assert done.returncode == 3
    first, second = json.loads(done.stdout)
    assert first["status"] == "failed"
    assert first["error"]["exit_status"] == 3
    assert second["status"] == "done"
    (left,) = (tmp_path / "out").glob("bad*")
    # Reports do not hold the names of folders, which may be those of people.
    told = {**first["error"], "message": first["error"]["message"].replace(str(bad), bad.name)}
    stored = json.loads(left.read_text())
    assert stored["error"] == told
    assert stored["input"] == "bad.nii.gz"
    assert str(tmp_path) not in left.read_text()
    assert first["error"]["code"] == "E-NIFTI-TRUNCATED"
    assert (tmp_path / "out" / "sub 01_dwi_lesion_mask.nii.gz").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.nii.gz"], 3, "No such file"),
        (["text.txt"], 3, "NIfTI"),
        (["STUDY"], 3, "no such file or folder"),
        (["a.nii", "--backend", "abacus"], 2, "choose from"),
        (["a.nii", "--precision", "fp8"], 2, "precision"),
        (["a.nii", "--precision", "bf16", "--backend", "ort"], 5, "precision"),
        (["a.nii", "a_lesion_mask.nii.gz", "--overwrite"], 2, "given as input"),
        (["a.nii", "--brain-mask", "a_lesion_mask.nii.gz", "--overwrite"], 2, "given as input"),
        (["a.nii", "--modality", "ct"], 2, "modality"),
        (
            ["a.nii", "b.nii", "--flair", "f.nii"],
            2,
            "--flair, --adc, --b0 and --brain-mask belong to one volume",
        ),
        (["a/x.nii", "b/x.nii", "-o", "out"], 2, "same name would write"),
        (["a.nii", "a.nii.gz"], 2, "same name would write"),
        (["a.nii", "-o", "/proc/nowhere"], 3, "cannot be written"),
        (["a.nii", "-o", "lesion.nii.gz"], 2, "give a folder"),
        (["a.nii", "-o", "out/Lesion.NII"], 2, "give a folder"),
        (["a.nii", "-o", "report.json"], 2, "give a folder"),
        (["a.nii", "--require-signature", "none.pub"], 3, "none.pub"),
        (["a.nii", "--bundle", "nowhere"], 3, "no bundle"),
    ],
)
def test_errors_are_one_line_with_their_status(
    bright_bundle: Path, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    image, _ = blob_volume()
    save_volume(tmp_path / "a.nii", image.data, image.grid)
    (tmp_path / "text.txt").touch()
    bundle = [] if "--bundle" in arguments else ["--bundle", str(bright_bundle)]
    done = run(*arguments, *bundle, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*mask*"))
    assert "Traceback" in run(*arguments, *bundle, "-v", cwd=tmp_path).stderr


def test_bad_usage_is_status_2() -> None:
    assert run("--no-such-option").returncode == 2
    assert run("a.nii", "--threads", "0").returncode == 2


def test_help_and_version() -> None:
    shown = run("--help").stdout
    for word in ("predict", "demo", "info", "Exit status", "Research use only"):
        assert word in shown
    assert run("--version").stdout.strip() == __version__


def test_info(make_bundle: BundleMaker) -> None:
    folder = make_bundle()
    entry = json.loads(run("info", "--bundle", folder, "--json").stdout)
    assert entry["bundle"]["name"] == "bright"
    assert entry["backends"]["ort"]["usable"] is True
    assert entry["backends"]["ort"]["precisions"] == ["fp32"]
    assert "`" not in json.dumps(entry["backends"])
    shown = run("info", "--bundle", folder).stdout
    assert "bright" in shown
    assert "1 channel, slices of " in shown
    assert "runtime" in shown
    failed = make_bundle(calibration={"variants": {"bf16": {"passed": False}}})
    entry = json.loads(run("info", "--bundle", failed, "--json").stdout)
    assert entry["bundle"]["failed"] == ["bf16"]
    assert "bf16" not in entry["backends"]["openvino"]["precisions"]
    assert "missed its accuracy gate" in run("info", "--bundle", failed).stdout


@pytest.mark.slow
def test_demo_with_the_built_in_model(tmp_path: Path) -> None:
    done = run("demo", "-o", tmp_path / "demo", "--json")
    assert done.returncode == 0, done.stderr
    entry = json.loads(done.stdout)
    assert entry["demo"]["dice"] > 0.6
    mask = nibabel.load(tmp_path / "demo" / "demo_lesion_mask.nii.gz")
    truth = nibabel.load(tmp_path / "demo" / "demo_truth.nii.gz")
    assert np.array_equal(mask.affine, truth.affine)
    assert run("demo", "-o", tmp_path / "demo").returncode == 3
    shown = run("demo", "-o", tmp_path / "demo", "--overwrite").stdout
    files = [path for line in shown.splitlines() if (path := Path(line.strip())).is_absolute()]
    assert set(files) == set((tmp_path / "demo").iterdir())
    assert "  diffusion was not checked: neither an ADC map nor b0 was given" in shown
    # By the self-check on a few slices, or what a whole verification left.
    assert re.search(r"Dice [01]\.\d{4} on (11|64) slices", run("info").stdout)


@pytest.mark.parametrize("option", ["--flair", "--adc", "--b0"])
def test_a_mask_given_as_an_image_is_refused_by_its_option(
    volume: Path, bright_bundle: Path, tmp_path: Path, option: str
) -> None:
    image, ball = blob_volume()
    mask = tmp_path / "brainmask.nii.gz"
    save_volume(mask, ball.astype(np.uint8), image.grid)
    done = run(volume, option, mask, "--bundle", bright_bundle)
    assert done.returncode == 3
    assert done.stderr.startswith("cnnres-infer: E-VOXELS-LABELS: brainmask: looks like a mask")
    assert done.stderr.endswith(f"; give the image itself as {option}\n")


def test_options_that_exclude_each_other_are_not_the_volumes_fault(
    volume: Path, bright_bundle: Path
) -> None:
    done = run(volume, "--adc", "a.nii", "--b0", "b.nii", "--bundle", bright_bundle)
    assert done.returncode == 2
    assert done.stderr.startswith("cnnres-infer: E-USAGE: --adc and --b0 are alternatives; ")


@pytest.mark.parametrize("option", ["--flair", "--adc", "--b0", "--brain-mask"])
@pytest.mark.parametrize("content", [None, b"no image"])
def test_an_error_names_its_file(
    volume: Path, bright_bundle: Path, tmp_path: Path, option: str, content: bytes | None
) -> None:
    other = tmp_path / "second.nii.gz"
    if content is not None:
        other.write_bytes(content)
    done = run(volume, option, other, "--bundle", bright_bundle)
    assert done.returncode == 3
    code = "E-FILE-MISSING" if content is None else "E-NIFTI-GZIP"
    assert done.stderr.startswith(f"cnnres-infer: {code}: {other}: ")
    assert volume.name not in done.stderr


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (["--format", "mask"], {"lesion_mask.nii.gz"}),
        (["--format", "report", "--format", "mask"], {"lesion_mask.nii.gz", "report.json"}),
        (["--format", "mask", "--prob"], {"lesion_mask.nii.gz", "lesion_prob.nii.gz"}),
        (
            ["--format", "probabilities", "--format", "overlay"],
            {"lesion_prob.nii.gz", "overlay.png"},
        ),
        (["--format", "overlay", "--format", "mask", "--no-overlay"], {"lesion_mask.nii.gz"}),
        (["--format", "html", "--format", "mask"], {"lesion_mask.nii.gz", "report.html"}),
        (["--no-overlay"], {"lesion_mask.nii.gz", "report.json"}),
        (["--prob"], {"lesion_mask.nii.gz", "report.json", "overlay.png", "lesion_prob.nii.gz"}),
    ],
)
def test_formats(
    volume: Path, bright_bundle: Path, tmp_path: Path, options: list[str], written: set[str]
) -> None:
    out = tmp_path / "out"
    done = run(volume, "-o", out, "--bundle", bright_bundle, "--json", *options)
    assert done.returncode == 0, done.stderr
    assert {path.name.removeprefix("sub 01_dwi_") for path in out.iterdir()} == written
    told = [Path(path) for path in json.loads(done.stdout)["outputs"]]
    assert set(told) == set(out.iterdir())
    if "lesion_mask.nii.gz" in written:
        assert told[-1].name == "sub 01_dwi_lesion_mask.nii.gz"


def test_a_patient_is_named_only_where_a_format_does_so(
    volume: Path, bright_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run(volume, "-o", out, "--bundle", bright_bundle, "--identify")
    assert done.returncode == 2
    assert done.stderr == (
        "cnnres-infer: E-USAGE: --identify names the patient in the format html only, which is not "
        "written; add that format, or leave out --identify\n"
    )
    assert not out.exists()


def test_an_unknown_format_is_refused_before_any_work(
    volume: Path, bright_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run(volume, "-o", out, "--bundle", bright_bundle, "--format", "mask", "--format", "ps")
    assert done.returncode == 2
    assert done.stderr == (
        f"cnnres-infer: E-USAGE: no output format 'ps'; choose from {', '.join(sorted(WRITERS))}\n"
    )
    assert not out.exists()


def test_without_a_report_json_has_the_same_keys(
    volume: Path, bright_bundle: Path, tmp_path: Path
) -> None:
    def entry(folder: str, *options: str) -> dict[str, object]:
        common = ("--json", "--bundle", bright_bundle, "-o", tmp_path / folder)
        found: dict[str, object] = json.loads(run(volume, *common, *options).stdout)
        return found

    usual, alone = entry("usual"), entry("alone", "--format", "mask")
    assert list(usual) == list(alone)
    stored = json.loads((tmp_path / "usual" / "sub 01_dwi_report.json").read_text())
    assert usual == {"input": str(volume), **stored, "outputs": usual["outputs"]}


def test_messages_name_flags_and_reports_arguments(
    volume: Path, bright_bundle: Path, tmp_path: Path
) -> None:
    image, _ = blob_volume()
    small = tmp_path / "small.nii.gz"
    brain = np.zeros(image.data.shape, np.uint8)
    brain[24:36, 28:44, 7:13] = 1
    save_volume(small, np.where(brain, image.data, 0), image.grid)
    done = run(small, "-v", "--bundle", bright_bundle)
    assert done.returncode == 0, done.stderr
    assert "W-BRAIN-SIZE" in done.stdout
    assert "--brain-mask" in done.stdout
    stored = json.loads((tmp_path / "small_report.json").read_text())
    text = next(each["text"] for each in stored["warnings"] if each["code"] == "W-BRAIN-SIZE")
    assert "`brain_mask`" in text
    options = ("--max-voxels", 10, "-o", tmp_path / "out", "--bundle", bright_bundle, "--json")
    refused = run(volume, *options)
    assert "more than --max-voxels 10" in refused.stderr
    left = json.loads((tmp_path / "out" / "sub 01_dwi_report.json").read_text())
    told = json.loads(refused.stdout)["error"]
    assert left["error"] == {**told, "message": told["message"].replace(str(volume), volume.name)}
    assert "more than --max-voxels 10" in left["error"]["message"]


def test_a_bug_is_one_line_that_asks_for_a_report() -> None:
    code = (
        "from cnnres_infer.cli import app\n"
        "from cnnres_infer.maintenance import info\n"
        "info.usable_cores = lambda: 1 / 0\n"
        "app.run()"
    )
    start = [sys.executable, "-c", code, "info"]
    done = subprocess.run(start, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("cnnres-infer: E-INTERNAL: internal error: ZeroDivisionError")
    assert done.stderr.endswith("(add -v)\n")
    assert done.stderr.count("\n") == 1
    told = subprocess.run([*start, "-v"], capture_output=True, text=True, check=False).stderr
    assert "Traceback" in told


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["--version"]])
def test_help_loads_no_numpy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from cnnres_infer.cli import app\n"
        "try: app.run()\n"
        "finally: print('numpy' in sys.modules, file=sys.stderr)"
    )
    start = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(start, capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"


def test_no_output_at_all_is_a_contradiction(tmp_path: Path) -> None:
    save_volume(tmp_path / "a.nii.gz", blob_volume()[0].data, blob_volume()[0].grid)
    done = run("predict", tmp_path / "a.nii.gz", "--format", "overlay", "--no-overlay")
    assert done.returncode == 2
    assert "no output format is left" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize("command", ["info", "verify"])
def test_other_commands_require_a_signature(command: str, bright_bundle: Path) -> None:
    pytest.importorskip("cryptography")
    done = run(command, "--bundle", bright_bundle, "--require-signature", "none.pub")
    assert done.returncode == 3
    assert "E-BUNDLE-SIGNATURE" in done.stderr


def test_a_bundle_cannot_draw_on_the_terminal(make_bundle: BundleMaker) -> None:
    name = "[/x]\x1b]52;c;AA==\x07[link=http://a]b[/link]\nE-OK: all is well"
    done = run("info", "--bundle", make_bundle(name=name))
    assert done.returncode == 3
    assert "name or version is empty, longer than 200 characters or not printable" in done.stderr
    assert "\x1b" not in done.stderr
    assert "\nE-OK" not in done.stderr
