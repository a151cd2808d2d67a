import hashlib
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cnnres_infer import __version__
from tests.wheels.files import wheel
from wheels.gather import (
    EXTRAS,
    HERE,
    PIP,
    ROOT,
    SBOM,
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
from wheels.install import SUMS, check_files

LOCKS = {extra: dependencies_lock(extra).read_text(encoding="utf-8") for extra in EXTRAS}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PIP_LOCK = (HERE / PIP).read_text(encoding="utf-8")
OUR_WHEEL = f"cnnres_infer-{__version__}-py3-none-any.whl"
OLD, NEW = wheel("cnnres-infer", "0.0.1"), wheel("cnnres-infer", __version__, "Summary: new")
NEW_SHA256 = hashlib.sha256(NEW).hexdigest()
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Requirements of a lock, each with its options."""
    text = re.sub(r"^\s*#.*\n", "", lock, flags=re.MULTILINE).replace("\\\n", " ")
    parts = [line.partition("--hash") for line in text.splitlines()]
    return [(Requirement(before), (option + after).split()) for before, option, after in parts]


def declared(extra: str) -> list[Requirement]:
    groups = [PROJECT["optional-dependencies"][name] for name in dict.fromkeys(("cpu", extra))]
    return [Requirement(text) for group in (PROJECT["dependencies"], *groups) for text in group]


class FakePip:
    """Stands in for pip; fails at one command if told to."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.downloaded: list[str] = []

    def __call__(
        self, arguments: list[str], failure: str, environment: dict[str, str] | None = None
    ) -> None:
        if arguments[0] == self.failing:
            raise GatherError(failure)
        options = dict(
            item.split("=", 1) for item in arguments if item.startswith("--") and "=" in item
        )
        if arguments[0] == "wheel":
            Path(options["--wheel-dir"], OUR_WHEEL).write_bytes(NEW)
        elif arguments[0] == "download":
            self.downloaded.append(Path(options["--requirement"]).read_text(encoding="utf-8"))
            Path(options["--dest"]).mkdir(exist_ok=True)


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


def test_the_locks_agree() -> None:
    """So that several can be installed together."""
    pins: dict[str, set[str]] = {}
    for lock in LOCKS.values():
        for entry, _ in entries(lock):
            pins.setdefault(entry.name, set()).add(str(entry.specifier))
    assert not {name: versions for name, versions in pins.items() if len(versions) > 1}


def test_every_lock_is_that_of_an_extra_of_cpus() -> None:
    of_cpus = {name for name in PROJECT["optional-dependencies"] if not name.startswith("gpu")}
    assert {"cpu", "dicom", "openvino", "service", "signing"} <= set(EXTRAS) <= of_cpus


def test_pip_is_pinned_too() -> None:
    ((pip, options),) = entries(PIP_LOCK)
    assert pip.name == "pip"
    assert [pin.operator for pin in pip.specifier] == ["=="]
    assert options
    assert all(HASH.fullmatch(option) for option in options)
    command = PIP_LOCK.splitlines()[1].lstrip("# ")
    assert f"echo pip | {command}\n" in (HERE / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_lock_names_the_command_that_updates_it_and_no_machine(extra: str) -> None:
    path, lock = dependencies_lock(extra), LOCKS[extra]
    command = lock.splitlines()[1].lstrip("# ")
    assert re.findall(r"--extra (\w+)", command) == list(dict.fromkeys(("cpu", extra)))
    assert command.endswith(f"--generate-hashes -o wheels/{path.name}")
    readme = path.with_name("README.md").read_text(encoding="utf-8")
    (loop,) = re.findall(r"^for extra in (.+); do$", readme, re.MULTILINE)
    assert extra in ["cpu", *loop.split()]
    if extra != "cpu":
        command = command.replace(extra, "$extra")
    assert f"{command}\n" in readme
    assert not re.search(r"://|--(extra-)?index-url|--find-links|(^|\s)/", lock)


def test_openvino_comes_with_what_it_depends_on_and_only_where_it_is_asked_for() -> None:
    names = {extra: {entry.name for entry, _ in entries(lock)} for extra, lock in LOCKS.items()}
    assert all(names["cpu"] <= each for each in names.values())
    assert names["openvino"] - names["cpu"] == {"openvino", "openvino-telemetry"}


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
    ours_file = tmp_path / "cnnres_infer-1.2.3-py3-none-any.whl"
    ours_file.write_bytes(b"a wheel")
    lock = tmp_path / "joined.lock"
    write_lock(lock, LOCKS["cpu"], ours_file)
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
    numpy = wheel("numpy", "2.0")
    for name in ("cnnres_infer-0.0.1-py3-none-any.whl", OUR_WHEEL):
        (tmp_path / name).write_bytes(OLD)
    (tmp_path / "numpy-2.0-py3-none-any.whl").write_bytes(numpy)
    digest = gather(tmp_path, [extra])
    assert {path.name for path in tmp_path.iterdir()} == {
        OUR_WHEEL,
        f"requirements-{extra}.lock",
        "numpy-2.0-py3-none-any.whl",
        "install.py",
        SBOM,
        SUMS,
    }
    assert (tmp_path / OUR_WHEEL).read_bytes() == NEW
    assert NEW_SHA256 in requirements_lock(tmp_path, extra).read_text(encoding="utf-8")
    assert pip.downloaded == [PIP_LOCK, without_markers(LOCKS[extra])]
    assert check_files(tmp_path, digest) == digest
    assert (tmp_path / "install.py").read_bytes() == (HERE / "install.py").read_bytes()


def test_several_extras_are_gathered_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip()
    monkeypatch.setattr("wheels.gather.run_pip", pip)
    assert main(["--extra", "dicom", "--extra", "openvino", "--into", str(tmp_path)]) == 0
    locks = [without_markers(LOCKS[extra]) for extra in ("dicom", "openvino")]
    assert pip.downloaded == [PIP_LOCK, *locks]
    assert {path.name for path in tmp_path.glob("*.lock")} == {
        "requirements-dicom.lock",
        "requirements-openvino.lock",
    }


def test_gathering_again_accounts_for_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wheels.gather.run_pip", FakePip())
    assert gather(tmp_path / "one") == gather(tmp_path / "two")


def test_the_lock_of_another_extra_stays_while_it_names_our_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wheels.gather.run_pip", FakePip())
    gather(tmp_path, ["cpu"])
    gather(tmp_path, ["openvino"])
    cpu, openvino = (requirements_lock(tmp_path, extra) for extra in ("cpu", "openvino"))
    assert cpu.exists()
    openvino.write_text(openvino.read_text(encoding="utf-8").replace(NEW_SHA256, "0" * 64), "utf-8")
    gather(tmp_path, ["cpu"])
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
    (tmp_path / OUR_WHEEL).write_bytes(OLD)
    lock = requirements_lock(tmp_path, extra)
    lock.write_text("old", encoding="utf-8")
    assert main(["--extra", extra, "--into", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("gather: ")
    assert (tmp_path / OUR_WHEEL).read_bytes() == OLD
    assert lock.read_text(encoding="utf-8") == "old"


def test_what_the_target_could_not_install_gets_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wheels.gather.run_pip", FakePip(failing="install"))
    lock = requirements_lock(tmp_path, "cpu")
    lock.write_text(f"an older one, of the same wheel: {NEW_SHA256}", encoding="utf-8")
    with pytest.raises(GatherError, match="update it"):
        gather(tmp_path)
    assert not lock.exists()
