"""`install.py` on small wheels, with the real pip and without network."""

import hashlib
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from tests.wheels.files import pip_wheel, wheel
from tests.wheels.offline import check_offline, run_offline
from wheels.gather import ROOT, account
from wheels.install import OLDEST_PYTHON, SUMS, InstallError, check_files, install, locks_of, main

WHEELS = {
    "cnnres_infer-1.0-py3-none-any.whl": wheel(
        "cnnres-infer", "1.0", "Requires-Dist: needed", "Requires-Dist: more; extra == 'more'"
    ),
    "needed-2.0-py3-none-any.whl": wheel("needed", "2.0"),
    "more-3.0-py3-none-any.whl": wheel("more", "3.0"),
}


@pytest.fixture(scope="module")
def gathered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("on a stick")
    pins = []
    for name, content in WHEELS.items():
        (folder / name).write_bytes(content)
        package, version, _ = name.split("-", 2)
        pins.append(f"{package}=={version} --hash=sha256:{hashlib.sha256(content).hexdigest()}\n")
    (folder / "pip-1-py3-none-any.whl").write_bytes(pip_wheel())
    (folder / "requirements-cpu.lock").write_text("".join(pins[:2]))
    (folder / "requirements-more.lock").write_text("".join(pins))
    account(folder)
    return folder


@pytest.fixture
def folder(gathered: Path, tmp_path: Path) -> Path:
    return shutil.copytree(gathered, tmp_path / "copy")


def test_what_was_gathered_passes(folder: Path) -> None:
    digest = hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()
    assert check_files(folder) == check_files(folder, digest.upper()) == digest
    listed = re.findall(r"^[0-9a-f]{64}  (.+)$", (folder / SUMS).read_text(), re.MULTILINE)
    assert set(listed) == {path.name for path in folder.iterdir()} - {SUMS}


@pytest.mark.parametrize(
    "name",
    [
        *WHEELS,
        "pip-1-py3-none-any.whl",
        "requirements-cpu.lock",
        "install.py",
        "sbom.cdx.json",
        SUMS,
    ],
)
def test_a_changed_byte_anywhere_is_refused_before_anything_is_made(
    folder: Path, tmp_path: Path, name: str
) -> None:
    digest = check_files(folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InstallError, match=r"copy (it|the folder) again"):
        install(folder, tmp_path / "env", ["cpu"], digest)
    assert not (tmp_path / "env").exists()


@pytest.mark.parametrize("name", [*WHEELS, SUMS])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InstallError, match=re.escape(name)):
        check_files(folder)


@pytest.mark.parametrize("name", ["evil-9.0-py3-none-any.whl", "requirements-evil.lock"])
def test_a_file_that_nobody_listed_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(InstallError, match="not listed"):
        check_files(folder)


@pytest.mark.parametrize("line", ["", "x", f"{'0' * 64}  ../outside", f"{'0' * 63}  a"])
def test_damaged_sums_are_refused(folder: Path, line: str) -> None:
    with (folder / SUMS).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InstallError, match="damaged"):
        check_files(folder)


def test_other_sums_than_those_that_were_told_are_refused(folder: Path) -> None:
    with pytest.raises(InstallError, match="its SHA-256 is"):
        check_files(folder, "0" * 64)


def test_an_extra_without_wheels_is_named(folder: Path) -> None:
    with pytest.raises(InstallError, match="only for: cpu, more"):
        locks_of(folder, ["cpu", "openvino"])


def test_wheels_without_pip_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "pip-1-py3-none-any.whl").unlink()
    account(folder)
    with pytest.raises(InstallError, match="no pip in it"):
        install(folder, tmp_path / "env", ["cpu"])
    assert not (tmp_path / "env").exists()


def test_an_existing_environment_stays(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(InstallError, match="already exists"):
        install(folder, tmp_path, ["cpu"])
    assert (tmp_path / "kept").read_text() == "mine"


def test_the_oldest_python_is_the_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]}"
    monkeypatch.setattr(sys, "version_info", (3, 10, 9))
    assert main(["env"]) == 1
    assert "Python 3.11 or newer is needed" in capsys.readouterr().err


@pytest.mark.slow
def test_python_alone_installs_without_network(folder: Path, tmp_path: Path) -> None:
    check_offline(tmp_path / "home")
    script = (sys.executable, folder / "install.py", tmp_path / "my env")
    sums = check_files(folder)
    done = run_offline(
        tmp_path / "home", *script, "--extra", "cpu", "--extra", "more", "--sums", sums
    )
    assert done.returncode == 0, done.stderr
    program = Path(done.stdout.split("next: ")[1].rsplit(" ", 1)[0])
    assert run_offline(tmp_path / "home", program, "verify").stdout == "ran verify\n"
    python = program.with_name(Path(sys.executable).name)
    assert run_offline(tmp_path / "home", python, "-c", "import needed, more").returncode == 0
    # Whatever pip Python itself has is not used.
    assert run_offline(tmp_path / "home", python, "-c", "import pip").returncode == 1
    again = run_offline(tmp_path / "home", *script)
    assert (again.returncode, again.stderr.count("already exists")) == (1, 1)


@pytest.mark.slow
def test_what_pip_refuses_leaves_no_environment(folder: Path, tmp_path: Path) -> None:
    """The hashes in the lock count, too, for those who write their own SHA256SUMS."""
    name = "needed-2.0-py3-none-any.whl"
    (folder / name).write_bytes(wheel("needed", "2.0", "Summary: altered"))
    account(folder)
    script = (sys.executable, folder / "install.py", tmp_path / "env")
    done = run_offline(tmp_path / "home", *script)
    assert done.returncode == 1
    assert "HASHES" in done.stderr.upper()
    assert "pip could not install" in done.stderr
    assert not (tmp_path / "env").exists()
