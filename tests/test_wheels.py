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
from cnnres_infer.bundle.bundle import DEFAULT_BUNDLE
from cnnres_infer.bundle.manifest import MANIFEST
from cnnres_infer.errors import BundleError
from wheels.gather import (
    EXTRAS,
    ROOT,
    GatherError,
    compatible_platforms,
    dependencies_lock,
    gather,
    main,
    requirements_lock,
    target_options,
    without_markers,
    write_lock,
)

LOCKS = {extra: dependencies_lock(extra).read_text(encoding="utf-8") for extra in EXTRAS}
BACKENDS = {"cpu": "ort", "openvino": "openvino"}
OUR_WHEEL = f"cnnres_infer-{__version__}-py3-none-any.whl"
NEW = hashlib.sha256(b"new").hexdigest()
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Requirements of a lock, each with its options."""
    text = re.sub(r"^\s*#.*\n", "", lock, flags=re.MULTILINE).replace("\\\n", " ")
    parts = [line.partition("--hash") for line in text.splitlines()]
    return [(Requirement(before), (option + after).split()) for before, option, after in parts]


def declared(extra: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["optional-dependencies"][name] for name in EXTRAS[extra]]
    return [Requirement(text) for group in (project["dependencies"], *groups) for text in group]


class FakePip:
    """Stands in for pip; fails at one command if told to."""

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


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_requirement_of_the_lock_is_pinned_once_and_hashed(extra: str) -> None:
    locked = entries(LOCKS[extra])
    names = [requirement.name for requirement, _ in locked]
    assert len(names) == len(set(names)) > 10
    for requirement, options in locked:
        assert [pin.operator for pin in requirement.specifier] == ["=="], requirement
        assert options, requirement
        assert all(HASH.fullmatch(option) for option in options), requirement


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_lock_covers_the_declared_dependencies(extra: str) -> None:
    pins = {
        canonicalize_name(entry.name): next(iter(entry.specifier))
        for entry, _ in entries(LOCKS[extra])
    }
    for requirement in declared(extra):
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin.version), requirement


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_lock_names_the_command_that_updates_it_and_no_machine(extra: str) -> None:
    path, lock = dependencies_lock(extra), LOCKS[extra]
    command = lock.splitlines()[1].lstrip("# ")
    assert re.findall(r"--extra (\w+)", command) == list(EXTRAS[extra])
    assert command.endswith(f"--generate-hashes -o wheels/{path.name}")
    assert command in path.with_name("README.md").read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|(^|\s)/", lock)


def test_openvino_comes_with_what_it_depends_on_and_only_where_it_is_asked_for() -> None:
    names = {extra: {entry.name for entry, _ in entries(lock)} for extra, lock in LOCKS.items()}
    assert names["openvino"] - names["cpu"] == {"openvino", "openvino-telemetry"}
    assert names["cpu"] < names["openvino"]


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


@pytest.mark.parametrize("extra", EXTRAS)
def test_dropping_markers_keeps_pins_and_hashes(extra: str) -> None:
    locked = entries(LOCKS[extra])
    assert any(requirement.marker for requirement, _ in locked)
    bare = entries(without_markers(LOCKS[extra]))
    assert not any(requirement.marker for requirement, _ in bare)
    assert [(entry.name, entry.specifier, options) for entry, options in bare] == [
        (entry.name, entry.specifier, options) for entry, options in locked
    ]


def test_our_wheel_joins_the_lock_by_its_hash(tmp_path: Path) -> None:
    wheel = tmp_path / "cnnres_infer-1.2.3-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    lock = tmp_path / "joined.lock"
    write_lock(lock, LOCKS["cpu"], wheel)
    *others, (ours, options) = entries(lock.read_text(encoding="utf-8"))
    assert others == entries(LOCKS["cpu"])
    assert str(ours) == "cnnres-infer==1.2.3"
    assert options == [f"--hash=sha256:{hashlib.sha256(b'a wheel').hexdigest()}"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_gathering_replaces_our_old_wheels_only(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip()
    monkeypatch.setattr("wheels.gather.run_pip", pip)
    for name in ("cnnres_infer-0.0.1-py3-none-any.whl", OUR_WHEEL, "numpy-2.0-any.whl"):
        (tmp_path / name).write_bytes(b"old")
    lock = gather(tmp_path, extra)
    assert {path.name for path in tmp_path.iterdir()} == {
        OUR_WHEEL,
        f"requirements-{extra}.lock",
        "numpy-2.0-any.whl",
    }
    assert (tmp_path / OUR_WHEEL).read_bytes() == b"new"
    assert NEW in lock.read_text(encoding="utf-8")
    assert pip.downloaded == without_markers(LOCKS[extra])


def test_the_lock_of_another_extra_stays_while_it_names_our_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wheels.gather.run_pip", FakePip())
    cpu, openvino = gather(tmp_path, "cpu"), gather(tmp_path, "openvino")
    assert cpu.exists()
    openvino.write_text(openvino.read_text(encoding="utf-8").replace(NEW, "0" * 64), "utf-8")
    gather(tmp_path, "cpu")
    assert cpu.exists()
    assert not openvino.exists()


def test_an_extra_without_a_lock_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--extra", "gpu"])
    assert "'gpu'" in capsys.readouterr().err


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("command", ["wheel", "download"])
def test_a_failed_step_leaves_what_was_gathered_before(
    extra: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("wheels.gather.run_pip", FakePip(failing=command))
    (tmp_path / OUR_WHEEL).write_bytes(b"old")
    lock = requirements_lock(tmp_path, extra)
    lock.write_text("old", encoding="utf-8")
    assert main(["--extra", extra, "--into", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("gather: ")
    assert (tmp_path / OUR_WHEEL).read_bytes() == b"old"
    assert lock.read_text(encoding="utf-8") == "old"


def test_what_the_target_could_not_install_gets_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wheels.gather.run_pip", FakePip(failing="install"))
    lock = requirements_lock(tmp_path, "cpu")
    lock.write_text(f"an older one, of the same wheel: {NEW}", encoding="utf-8")
    with pytest.raises(GatherError, match="update it"):
        gather(tmp_path)
    assert not lock.exists()


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("CNNRES_TEST_NETWORK") != "1",
    reason="downloads about 65 MB, and 125 with OpenVINO: set CNNRES_TEST_NETWORK=1 to run it",
)
@pytest.mark.parametrize("extra", EXTRAS)
def test_a_machine_without_internet_installs_and_runs_what_was_gathered(
    extra: str, tmp_path: Path
) -> None:
    wheels, venv = tmp_path / "wheels", tmp_path / "venv"
    wheels.mkdir()
    (wheels / OUR_WHEEL).write_bytes(b"an older build of the same version")
    script = [sys.executable, str(ROOT / "wheels" / "gather.py"), "--extra", extra]
    subprocess.run([*script, "--into", str(wheels)], check=True, cwd=tmp_path)

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
    lock = ["--require-hashes", "-r", str(requirements_lock(wheels, extra))]
    installed = run("python", "-m", "pip", "install", *source, *lock)
    assert installed.returncode == 0, installed.stderr
    assert run("cnnres-infer", "--version").stdout.strip() == __version__
    assert run("cnnres-infer", "--help").returncode == 0
    info = run("cnnres-infer", "info", "--json")
    if (DEFAULT_BUNDLE / MANIFEST).exists():
        assert info.returncode == 0, info.stderr
        assert json.loads(info.stdout)["backends"][BACKENDS[extra]]["usable"]
        demo = run("cnnres-infer", "demo", "--backend", BACKENDS[extra], "--json")
        assert demo.returncode == 0, demo.stderr
        assert json.loads(demo.stdout)["engine"]["backend"] == BACKENDS[extra]
    else:
        assert info.returncode == BundleError.exit_status, info.stderr
