"""One file of an installed package, started by the real shiv without network."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from tests.wheels.files import wheel
from tests.wheels.offline import run_offline
from wheels.gather import account
from wheels.install import InstallError
from wheels.single_file import main, make_file

pytest.importorskip("shiv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As `wheels.gather` fills it."""
    folder = tmp_path / "stick"
    folder.mkdir()
    path = folder / "cnnres_infer-1.0-py3-none-any.whl"
    path.write_bytes(wheel("cnnres-infer", "1.0"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "requirements-cpu.lock").write_text(f"cnnres-infer==1.0 --hash=sha256:{digest}\n")
    account(folder)
    return folder


@pytest.mark.slow
def test_it_starts_without_network_and_installation(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.pyz"
    assert main(["--from", str(folder), "--out", str(out)]) == 0
    for _ in range(2):
        done = run_offline(tmp_path / "home", sys.executable, "-S", out, "verify", "--json")
        assert (done.returncode, done.stdout) == (0, "ran verify --json\n"), done.stderr
    assert list((tmp_path / "home" / ".shiv").iterdir())
    with zipfile.ZipFile(out) as archive:
        assert not [name for name in archive.namelist() if name.startswith("site-packages/bin/")]
    first = out.read_bytes()
    make_file(folder, out)
    assert out.read_bytes() == first


def test_it_is_not_made_of_altered_wheels(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cnnres_infer-1.0-py3-none-any.whl").write_bytes(wheel("cnnres-infer", "1.1"))
    out = tmp_path / "one.pyz"
    with pytest.raises(InstallError, match="SHA-256 differs"):
        make_file(folder, out)
    assert main(["--from", str(folder), "--out", str(out)]) == 1
    assert capsys.readouterr().err.startswith("single_file: ")
    assert not out.exists()
