import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cnnres_infer import __version__
from hatch_build import REGISTRY

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("dist"))


def built(checkout: Path, out: Path, variables: dict[str, str] | None = None) -> Path:
    """Build the wheel of a checkout into a folder."""
    environment = {**os.environ, **(variables or {})}
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*build, str(checkout)], check=True, capture_output=True, env=environment)
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    about = f"cnnres_infer-{__version__}.dist-info"
    assert tops == {"cnnres_infer", about}
    assert "cnnres_infer/py.typed" in names
    assert f"{about}/licenses/LICENSE" in names
    bundle = {name for name in names if name.startswith("cnnres_infer/models/cnnres/")}
    assert {Path(name).name for name in bundle} == {
        "model.json",
        "model.fp32.onnx",
        "model.fp32-cpu.recipe.json",
        "model.fp16.recipe.json",
        "model.int8-cpu.recipe.json",
        "model.int8-trt.recipe.json",
        "calibration.json",
        "reference.npz",
        "MODEL_CARD.md",
    }


@pytest.mark.slow
def test_the_wheel_holds_the_viewer_of_the_report_with_its_licences(wheel: Path) -> None:
    """The viewer itself is fetched when the package is built, if npm's registry is reachable."""
    about, folder = f"cnnres_infer-{__version__}.dist-info", "cnnres_infer/outputs/assets"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        source = json.loads(archive.read(f"{folder}/niivue/source.json"))
        expected = {"page.css", "report.css", "viewer.js", "niivue/LICENSE", "niivue/source.json"}
        found = {name.removeprefix(f"{folder}/") for name in names if name.startswith(folder)}
        assert f"{about}/licenses/{folder}/niivue/LICENSE" in names
        if not (ROOT / folder / "niivue" / "niivue.umd.js").exists():
            assert found == expected
            pytest.skip("the viewer could not be fetched when the wheel was built")
        assert found == expected | {"niivue/niivue.umd.js"}
        program = archive.read(f"{folder}/niivue/niivue.umd.js")
        assert hashlib.sha256(program).hexdigest() == source["sha256"]


@pytest.mark.slow
def test_the_wheel_keeps_each_network_once(wheel: Path) -> None:
    assert wheel.stat().st_size < 30e6


@pytest.mark.slow
def test_another_folder_and_time_make_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    left_out = shutil.ignore_patterns(
        ".git", ".venv", ".*_cache", "__pycache__", "tests", "dist", "runs", "*.whl"
    )
    shutil.copytree(ROOT, copy, ignore=left_out)
    for path in copy.rglob("*"):
        os.utime(path, (1_500_000_000, 1_500_000_000))
        if path.is_file():
            path.chmod(0o640)
    # What the first build has fetched, if anything, is in the copy.
    again = built(copy, tmp_path / "dist", {REGISTRY: "http://127.0.0.1:9"})
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


@pytest.mark.slow
def test_the_installed_wheel_segments(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(target), str(wheel)], check=True)
    command = [str(target / "bin" / "cnnres-infer")]
    environment = {**os.environ, "PYTHONPATH": str(target)}
    for arguments in (["info", "--json"], ["demo", "-o", str(tmp_path / "demo")]):
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        assert arguments[0] != "info" or json.loads(done.stdout)["bundle"]["folder"].startswith(
            str(target)
        )
    assert (tmp_path / "demo" / "demo_lesion_mask.nii.gz").exists()
    page = (tmp_path / "demo" / "demo_report.html").read_text(encoding="utf-8")
    assert ("viewer-data" in page) == any(target.rglob("niivue.umd.js"))


def test_checkout_folders_are_not_importable_elsewhere(tmp_path: Path) -> None:
    for module in ("export", "training", "benchmarks"):
        code = f"import {module}"
        done = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 1, module


@pytest.mark.slow
def test_the_version_of_the_wheel_is_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"cnnres_infer-{__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {__version__}\n" in metadata


@pytest.mark.slow
def test_no_extra_brings_what_only_the_checkout_needs(wheel: Path) -> None:
    """Dependency groups stay out of the wheel; an extra would be for everybody to install."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"cnnres_infer-{__version__}.dist-info/METADATA").decode()
    extras = set(re.findall(r"^Provides-Extra: (.+)$", metadata, re.MULTILINE))
    assert extras == {
        "cpu", "dask", "dicom", "gpu", "gpu-cuda12", "openvino", "service", "signing", "slurm",
    }  # fmt: skip
    assert "torch" not in metadata.partition("\n\n")[0]


def test_the_readme_and_the_checks_install_and_test_by_the_same_command() -> None:
    command = re.compile(r"^\s*(python3 -m venv .*pytest)\s*$", re.MULTILINE)
    (readme,) = command.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    (checks,) = command.findall((ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert readme == checks


def test_the_daily_checks_say_the_same_where_nothing_is_installed(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "check", tmp_path / "scripts")
    done = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    install = done.stderr.split("\n\n")[1].strip()
    assert f"{install} && .venv/bin/pytest\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
