"""All of it for real: gathered with network, then installed and run without."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnres_infer import __version__
from tests.wheels.offline import check_offline, run_offline
from wheels.gather import EXTRAS, ROOT, SBOM
from wheels.install import SUMS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("CNNRES_TEST_NETWORK") != "1",
        reason="downloads about 150 MB: set CNNRES_TEST_NETWORK=1 to run it",
    ),
]
OURS = f"cnnres_infer-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def stick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of all extras, and with those of CPUs alone gathered first."""
    folder = tmp_path_factory.mktemp("gathered") / "stick"
    gather(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 90e6
    gather(folder, *(part for extra in EXTRAS for part in ("--extra", extra)))
    return folder


def gather(folder: Path, *options: str) -> None:
    script = [sys.executable, str(ROOT / "wheels" / "gather.py"), "--into", str(folder)]
    subprocess.run([*script, *options], check=True, cwd=folder.parent)


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_machine_without_network_installs_and_runs_what_was_gathered(
    extra: str, stick: Path, tmp_path: Path
) -> None:
    home, environment = tmp_path / "home", tmp_path / "env"
    check_offline(home)
    script = (sys.executable, stick / "install.py", environment, "--extra", extra)
    installed = run_offline(home, *script)
    assert installed.returncode == 0, installed.stderr
    program = environment / ("Scripts" if sys.platform == "win32" else "bin") / "cnnres-infer"
    assert run_offline(home, program, "--version").stdout.strip() == __version__
    backend = ("--backend", "openvino" if extra == "openvino" else "ort")
    demo = run_offline(home, program, "demo", *backend, "--json")
    assert demo.returncode == 0, demo.stderr
    assert json.loads(demo.stdout)["engine"]["backend"] == backend[1]
    verified = run_offline(home, program, "verify", *backend, "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["status"] == "passed"


def test_a_changed_byte_of_any_wheel_is_refused(stick: Path, tmp_path: Path) -> None:
    for path in stick.glob("*.whl"):
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        refused = run_offline(tmp_path / "h", sys.executable, stick / "install.py", tmp_path / "e")
        path.write_bytes(content)
        assert refused.returncode == 1
        assert path.name in refused.stderr
        assert not (tmp_path / "e").exists()


def test_the_bill_of_materials_names_every_wheel_with_a_licence(stick: Path) -> None:
    bom = json.loads((stick / SBOM).read_text(encoding="utf-8"))
    listed = {each["bom-ref"]: each for each in [bom["metadata"]["component"], *bom["components"]]}
    for path in stick.glob("*.whl"):
        assert listed[path.name]["licenses"], path.name
        assert f"  {path.name}\n" in (stick / SUMS).read_text(encoding="utf-8")


def test_the_single_file_segments(stick: Path, tmp_path: Path) -> None:
    pytest.importorskip("shiv")
    out, home = tmp_path / "cnnres-infer.pyz", tmp_path / "home"
    script = [sys.executable, str(ROOT / "wheels" / "single_file.py"), "--from", str(stick)]
    subprocess.run([*script, "--out", str(out)], check=True)
    demo = run_offline(home, sys.executable, "-S", out, "demo", "--json")
    assert demo.returncode == 0, demo.stderr
    assert json.loads(demo.stdout)["engine"]["backend"] == "ort"
