import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cnnres_infer import __version__
from cnnres_infer.bundle import DEFAULT_BUNDLE, MANIFEST
from cnnres_infer.errors import BundleError
from wheels.gather import (
    DEPENDENCIES,
    REQUIREMENTS,
    ROOT,
    GatherError,
    compatible_platforms,
    gather,
    main,
    target_options,
    without_markers,
    write_lock,
)

LOCK = DEPENDENCIES.read_text(encoding="utf-8")
OUR_WHEEL = f"cnnres_infer-{__version__}-py3-none-any.whl"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Requirements of a lock, each with its options."""
    text = re.sub(r"^\s*#.*\n", "", lock, flags=re.MULTILINE).replace("\\\n", " ")
    parts = [line.partition("--hash") for line in text.splitlines()]
    return [(Requirement(before), (option + after).split()) for before, option, after in parts]


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*map(Requirement, project["dependencies"] + project["optional-dependencies"]["cpu"])]


class FakePip:
    """Does what gather asks of pip without pip; fails at one command if told to."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.downloaded = ""

    def __call__(
        self, arguments: list[str], failure: str, environment: dict[str, str] | None = None
    ) -> None:
        if arguments[0] == self.failing:
            raise GatherError(failure)
        options = dict(
            item.split("=", 1) for item in arguments if item.startswith("--") and "=" in item
        )
        if arguments[0] == "wheel":
            Path(options["--wheel-dir"], OUR_WHEEL).write_bytes(b"new")
        elif arguments[0] == "download":
            self.downloaded = Path(options["--requirement"]).read_text(encoding="utf-8")


def test_every_requirement_of_the_lock_is_pinned_once_and_hashed() -> None:
    locked = entries(LOCK)
    names = [requirement.name for requirement, _ in locked]
    assert len(names) == len(set(names)) > 10
    for requirement, options in locked:
        assert [pin.operator for pin in requirement.specifier] == ["=="], requirement
        assert options, requirement
        assert all(HASH.fullmatch(option) for option in options), requirement


def test_the_lock_covers_the_declared_dependencies() -> None:
    pins = {
        canonicalize_name(entry.name): next(iter(entry.specifier)) for entry, _ in entries(LOCK)
    }
    for requirement in declared():
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin.version), requirement


def test_the_lock_tells_how_to_renew_it_and_nothing_of_a_machine() -> None:
    command = LOCK.splitlines()[1].lstrip("# ")
    assert command.endswith(f"--generate-hashes -o wheels/{DEPENDENCIES.name}")
    assert command in DEPENDENCIES.with_name("README.md").read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|(^|\s)/", LOCK)


def test_a_target_is_named_to_pip() -> None:
    assert target_options(None, None) == ["--only-binary", ":all:"]
    assert target_options("3.12", "win_amd64")[2:] == [
        "--python-version",
        "3.12",
        "--platform=win_amd64",
    ]


def test_wheels_for_an_older_linux_serve_a_newer_one() -> None:
    names = compatible_platforms("manylinux_2_28_aarch64")
    assert names[0] == "manylinux_2_28_aarch64"
    assert {"manylinux_2_17_aarch64", "manylinux2014_aarch64"} < set(names)
    assert "manylinux_2_29_aarch64" not in names
    assert compatible_platforms("macosx_14_0_arm64") == ["macosx_14_0_arm64"]


def test_dropping_markers_keeps_pins_and_hashes() -> None:
    assert any(requirement.marker for requirement, _ in entries(LOCK))
    bare = entries(without_markers(LOCK))
    assert not any(requirement.marker for requirement, _ in bare)
    assert [(entry.name, entry.specifier, options) for entry, options in bare] == [
        (entry.name, entry.specifier, options) for entry, options in entries(LOCK)
    ]


def test_our_wheel_joins_the_lock_by_its_hash(tmp_path: Path) -> None:
    wheel = tmp_path / "cnnres_infer-1.2.3-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    write_lock(tmp_path / REQUIREMENTS, LOCK, wheel)
    *others, (ours, options) = entries((tmp_path / REQUIREMENTS).read_text(encoding="utf-8"))
    assert others == entries(LOCK)
    assert str(ours) == "cnnres-infer==1.2.3"
    assert options == [f"--hash=sha256:{hashlib.sha256(b'a wheel').hexdigest()}"]


def test_gathering_replaces_our_old_wheels_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip()
    monkeypatch.setattr("wheels.gather._pip", pip)
    for name in ("cnnres_infer-0.0.1-py3-none-any.whl", OUR_WHEEL, "numpy-2.0-any.whl"):
        (tmp_path / name).write_bytes(b"old")
    lock = gather(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        OUR_WHEEL,
        REQUIREMENTS,
        "numpy-2.0-any.whl",
    }
    assert (tmp_path / OUR_WHEEL).read_bytes() == b"new"
    assert hashlib.sha256(b"new").hexdigest() in lock.read_text(encoding="utf-8")
    assert pip.downloaded == without_markers(LOCK)


@pytest.mark.parametrize("command", ["wheel", "download"])
def test_a_failed_step_leaves_what_was_gathered_before(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("wheels.gather._pip", FakePip(failing=command))
    (tmp_path / OUR_WHEEL).write_bytes(b"old")
    (tmp_path / REQUIREMENTS).write_text("old", encoding="utf-8")
    assert main(["--into", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("gather: ")
    assert (tmp_path / OUR_WHEEL).read_bytes() == b"old"
    assert (tmp_path / REQUIREMENTS).read_text(encoding="utf-8") == "old"


def test_what_the_target_could_not_install_gets_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wheels.gather._pip", FakePip(failing="install"))
    (tmp_path / REQUIREMENTS).write_text("old", encoding="utf-8")
    with pytest.raises(GatherError, match="renew it"):
        gather(tmp_path)
    assert not (tmp_path / REQUIREMENTS).exists()


@pytest.mark.skipif(
    os.environ.get("CNNRES_TEST_NETWORK") != "1",
    reason="downloads about 65 MB: set CNNRES_TEST_NETWORK=1 to run it",
)
def test_a_machine_without_internet_installs_and_runs_what_was_gathered(tmp_path: Path) -> None:
    wheels, venv = tmp_path / "wheels", tmp_path / "venv"
    wheels.mkdir()
    (wheels / OUR_WHEEL).write_bytes(b"an older build of the same version")
    script = [sys.executable, str(ROOT / "wheels" / "gather.py"), "--into", str(wheels)]
    subprocess.run(script, check=True, cwd=tmp_path)

    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    programs = venv / ("Scripts" if sys.platform == "win32" else "bin")
    offline = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    offline |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(programs / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=offline,
        )

    source = ["--no-index", "--find-links", str(wheels)]
    lock = ["--require-hashes", "-r", str(wheels / REQUIREMENTS)]
    installed = run("python", "-m", "pip", "install", *source, *lock)
    assert installed.returncode == 0, installed.stderr
    assert run("cnnres-infer", "--version").stdout.strip() == __version__
    assert run("cnnres-infer", "--help").returncode == 0
    info = run("cnnres-infer", "info", "--json")
    if (DEFAULT_BUNDLE / MANIFEST).exists():
        assert info.returncode == 0, info.stderr
        assert json.loads(info.stdout)["backends"]["ort"]["usable"]
    else:
        assert info.returncode == BundleError.exit_status, info.stderr
