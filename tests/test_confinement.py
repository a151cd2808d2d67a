"""Confinement: no network, no shell, no unpickling or evaluation, and inputs are only read."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnres_infer.readers.nifti.write import save_volume
from tests.conftest import blob_volume

PACKAGE = Path(__file__).resolve().parents[1] / "cnnres_infer"
SOURCES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN_MODULES = {
    "pickle", "_pickle", "cPickle", "dill", "marshal", "shelve", "code", "codeop",
    "socket", "ssl", "http", "urllib", "urllib3", "requests", "ftplib", "smtplib",
    "telnetlib", "xmlrpc", "asyncio", "socketserver", "pty", "commands",
}  # fmt: skip
# Only the service speaks to a network, through pynetdicom; its connections have their settings
# from here.
ALLOWED = {"service/transport.py": {"socket", "ssl"}}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_OF_OS = {"system", "popen", "spawnv", "execv", "fork"}

# Ends the process at a forbidden request to the operating system, from any Python code.
GUARD = """
import os, sys
source, writable = sys.argv[1], os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
def guard(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "pty.",
                         "pickle.", "http.", "urllib.", "ftplib.", "smtplib.")):
        print("FORBIDDEN", event, file=sys.__stderr__)
        os._exit(99)
    if event == "open" and str(arguments[0]) == source and (arguments[2] or 0) & writable:
        print("FORBIDDEN writing to", source, file=sys.__stderr__)
        os._exit(99)
sys.addaudithook(guard)
from cnnres_infer.cli import app as cli
sys.argv[:] = ["cnnres-infer", *sys.argv[1:]]
cli.run()
"""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_source_uses_no_forbidden_modules_or_calls(path: Path) -> None:
    forbidden = FORBIDDEN_MODULES - ALLOWED.get(path.relative_to(PACKAGE).as_posix(), set())
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & forbidden
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in forbidden
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            owner = getattr(getattr(node.func, "value", None), "id", "")
            harmless = (owner, name) == ("re", "compile")
            assert harmless or name not in FORBIDDEN_CALLS, ast.unparse(node)
            assert owner != "os" or name not in FORBIDDEN_OF_OS, ast.unparse(node)
            for keyword in node.keywords:
                allowed = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                assert keyword.arg not in ("shell", "allow_pickle") or allowed, ast.unparse(node)


@pytest.mark.skipif(sys.platform == "win32", reason="a test of the open flags of POSIX")
def test_a_run_opens_no_socket_and_starts_no_process(bright_bundle: Path, tmp_path: Path) -> None:
    image, _ = blob_volume()
    volume = tmp_path / "dwi.nii.gz"
    save_volume(volume, image.data, image.grid)
    before = volume.stat()
    arguments = [str(volume), "--prob", "-o", str(tmp_path / "out"), "--bundle", str(bright_bundle)]
    run = [sys.executable, "-c", GUARD, *arguments]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 4
    after = volume.stat()
    assert (before.st_mtime_ns, before.st_size, before.st_ino) == (
        after.st_mtime_ns, after.st_size, after.st_ino,
    )  # fmt: skip


def test_the_guard_detects_violations(tmp_path: Path) -> None:
    code = GUARD.replace(
        "from cnnres_infer.cli import app as cli", "import socket; socket.socket()"
    )
    run = [sys.executable, "-c", code, "x"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 99
    assert "FORBIDDEN socket" in done.stderr
    source = tmp_path / "a.nii"
    source.write_bytes(b"")
    code = GUARD.replace("from cnnres_infer.cli import app as cli", "open(source, 'r+b')")
    run = [sys.executable, "-c", code, str(source)]
    assert subprocess.run(run, check=False, capture_output=True).returncode == 99


def unshared() -> list[str]:
    """Command that runs another one without a network; empty if the system does not allow it."""
    command = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--net"]
    try:
        allowed = subprocess.run([*command, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return command if allowed.returncode == 0 else []


def test_a_run_without_any_network_succeeds(tmp_path: Path) -> None:
    prefix = unshared()
    if not prefix:
        pytest.skip("this system does not allow a process to run without its network")
    run = [sys.executable, "-m", "cnnres_infer", "demo", "-o", str(tmp_path / "demo")]
    done = subprocess.run([*prefix, *run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
