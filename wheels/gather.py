"""Gather all wheels that ``cnnres-infer[cpu]`` needs, for a machine without internet.

    python wheels/gather.py [--extra openvino] [--extra dicom] [--python-version 3.12]
                            [--platform manylinux_2_28_x86_64]

With ``--extra openvino``, all that ``cnnres-infer[cpu,openvino]`` needs. Every
third-party wheel must match the extra's lock, such as ``dependencies-cpu.lock``.
These pins, plus that of our own wheel, are written to ``requirements-cpu.lock``
next to the wheels, with ``install.py``, a bill of materials and the hashes of all
of it. The target installs from there, as README.md describes.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
if not __package__:  # run as a script
    sys.path.insert(0, str(ROOT))

from wheels.install import SUMS  # noqa: E402
from wheels.sbom import has_viewer, sbom  # noqa: E402

_DEPENDENCIES = "dependencies-*.lock"
# Those with a lock. Each covers ``cpu``, too: ONNX Runtime takes over where OpenVINO fails.
EXTRAS = sorted(path.stem.partition("-")[2] for path in HERE.glob(_DEPENDENCIES))
SBOM, INSTALLER, PIP = "sbom.cdx.json", "install.py", "pip.lock"

_OUR_WHEELS = "cnnres_infer-*.whl"
_OLDEST_GLIBC = 5
_LEGACY_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_MARKER = re.compile(r"^([^#\s;][^;\n]*?) *;[^\\\n]*", re.MULTILINE)


class GatherError(RuntimeError):
    """A step failed; any lock left in the folder still matches the wheels there."""


def dependencies_lock(extra: str) -> Path:
    """Path of the committed lock of an extra."""
    return HERE / _DEPENDENCIES.replace("*", extra)


def requirements_lock(folder: Path, extra: str) -> Path:
    """Path of the lock in a folder that the target installs an extra from."""
    return folder / f"requirements-{extra}.lock"


def gather(
    folder: Path,
    extras: Sequence[str] = ("cpu",),
    python_version: str | None = None,
    platform: str | None = None,
) -> str:
    """Fill a folder with all wheels, and with what installs and accounts for them.

    Parameters
    ----------
    folder
        The folder to fill, created if necessary.
    extras
        Some of `EXTRAS`.
    python_version, platform
        Those of the target in pip's notation, such as ``"3.12"`` and
        ``"win_amd64"``; by default those of this interpreter.

    Returns
    -------
    str
        SHA-256 of ``SHA256SUMS``, which pins all other files.

    Raises
    ------
    GatherError
        If a step fails, or the target could not install the gathered wheels.
    """
    target = target_options(python_version, platform)
    dependencies = {extra: _read_lock(dependencies_lock(extra)) for extra in extras}
    wanted = [_read_lock(HERE / PIP), *dependencies.values()]
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        built = _build(temporary)
        for each in wanted:
            _download(each, folder, target, temporary)
        for extra in extras:
            requirements_lock(folder, extra).unlink(missing_ok=True)
        wheel = _replace_ours(built, folder)
        locks = [requirements_lock(temporary, extra) for extra in extras]
        for lock, text in zip(locks, dependencies.values(), strict=True):
            write_lock(lock, text, wheel)
        _rehearse(locks, folder, target, temporary)
        for lock in locks:
            shutil.move(lock, folder / lock.name)
    return account(folder)


def account(folder: Path) -> str:
    """Write the installer, the bill of materials and the hashes of all files of a folder.

    Returns
    -------
    str
        SHA-256 of ``SHA256SUMS``.
    """
    wheels = sorted(folder.glob("*.whl"))
    if folder.resolve() != HERE:
        shutil.copyfile(HERE / INSTALLER, folder / INSTALLER)
    content = json.dumps(sbom(wheels), indent=1) + "\n"
    (folder / SBOM).write_text(content, encoding="utf-8", newline="\n")
    locks = sorted(folder.glob(requirements_lock(folder, "*").name))
    listed = [*wheels, *locks, folder / SBOM, folder / INSTALLER]
    sums = "".join(f"{_digest(path)}  {path.name}\n" for path in listed)
    (folder / SUMS).write_text(sums, encoding="utf-8", newline="\n")
    return _digest(folder / SUMS)


def target_options(python_version: str | None, platform: str | None) -> list[str]:
    """Options that tell pip about the target."""
    options = ["--only-binary", ":all:"]
    if python_version is not None:
        options += ["--python-version", python_version]
    if platform is not None:
        options += [f"--platform={name}" for name in compatible_platforms(platform)]
    return options


def compatible_platforms(platform: str) -> list[str]:
    """A platform, and the older manylinux platforms whose wheels also run on it.

    pip derives these by itself for macOS, but takes a manylinux platform literally.
    """
    match = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", platform)
    if match is None:
        return [platform]
    newest, machine = int(match[1]), match[2]
    names = []
    for minor in range(newest, _OLDEST_GLIBC - 1, -1):
        names.append(f"manylinux_2_{minor}_{machine}")
        if minor in _LEGACY_NAMES:
            names.append(f"{_LEGACY_NAMES[minor]}_{machine}")
    return names


def without_markers(lock: str) -> str:
    """A lock without the environment markers of its requirements.

    pip evaluates markers for the machine that downloads, not for the target, and
    would leave out a package that only the target needs.
    """
    return _MARKER.sub(r"\1 ", lock)


def write_lock(path: Path, dependencies: str, wheel: Path) -> None:
    """Write a lock of the dependencies and our own wheel, all pinned by their hashes."""
    version = wheel.name.split("-")[1]
    ours = f"cnnres-infer=={version} \\\n    --hash=sha256:{_digest(wheel)}\n"
    path.write_text(dependencies + ours, encoding="utf-8", newline="\n")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_lock(lock: Path) -> str:
    try:
        return lock.read_text(encoding="utf-8")
    except OSError as error:
        raise GatherError(f"{lock}: {error.strerror}; run this from a checkout") from error


def _build(folder: Path) -> Path:
    run_pip(
        ["wheel", "--no-deps", f"--wheel-dir={folder}", str(ROOT)],
        "building our own wheel failed; this needs internet access for the build backend",
    )
    wheels = list(folder.glob(_OUR_WHEELS))
    if len(wheels) != 1:
        raise GatherError(f"the build made {len(wheels)} wheels named {_OUR_WHEELS} instead of one")
    return wheels[0]


def _download(dependencies: str, folder: Path, target: list[str], temporary: Path) -> None:
    everything = temporary / "everything.lock"
    everything.write_text(without_markers(dependencies), encoding="utf-8")
    arguments = ["download", "--no-deps", "--require-hashes", f"--requirement={everything}"]
    run_pip(
        [*arguments, f"--dest={folder}", *target],
        "downloading failed; if there is internet access, some version has no wheel for this "
        "Python and platform: wheels/README.md lists those that work",
    )


def _replace_ours(built: Path, folder: Path) -> Path:
    """Replace older wheels of ours, and remove the locks that name them."""
    digest = _digest(built)
    for lock in folder.glob(requirements_lock(folder, "*").name):
        if digest not in lock.read_text(encoding="utf-8"):
            lock.unlink()
    for old in folder.glob(_OUR_WHEELS):
        old.unlink()
    return Path(shutil.move(built, folder / built.name))


def _rehearse(locks: list[Path], folder: Path, target: list[str], temporary: Path) -> None:
    """Let pip resolve the installation from the gathered files alone."""
    arguments = ["install", "--isolated", "--dry-run", "--ignore-installed", "--no-index"]
    arguments += [f"--find-links={folder}", "--require-hashes"]
    arguments += [f"--requirement={lock}" for lock in locks]
    run_pip(
        [*arguments, f"--target={temporary / 'target'}", *target],
        "the target could not install the gathered wheels; if the lock of the dependencies is "
        "older than pyproject.toml, update it as wheels/README.md describes",
        # A configured index or folder of wheels would hide that one is missing here.
        environment={**os.environ, "PIP_CONFIG_FILE": os.devnull},
    )


def run_pip(arguments: list[str], failure: str, environment: dict[str, str] | None = None) -> None:
    """Run this Python's pip.

    Raises
    ------
    GatherError
        With the message `failure`, if it fails.
    """
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, env=environment, check=False).returncode != 0:
        raise GatherError(failure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        description="Gather all wheels of cnnres-infer[cpu] for a machine without internet."
    )
    parser.add_argument(
        "--extra",
        choices=EXTRAS,
        action="append",
        help="what to gather wheels for, may be given again; default: cpu, which all include",
    )
    parser.add_argument(
        "--python-version", help="Python of the target, such as 3.12; default: this one"
    )
    parser.add_argument(
        "--platform", help="of the target, such as manylinux_2_28_x86_64; default: this one"
    )
    parser.add_argument(
        "--into", type=Path, default=HERE, help="folder to fill; default: that of this script"
    )
    options = parser.parse_args(arguments)
    extras = list(dict.fromkeys(options.extra or ["cpu"]))
    try:
        digest = gather(options.into, extras, options.python_version, options.platform)
    except (GatherError, OSError) as error:
        sys.stderr.write(f"gather: {error}\n")
        return 1
    if not all(map(has_viewer, options.into.glob(_OUR_WHEELS))):
        sys.stderr.write(
            "gather: our own wheel has no viewer for the HTML report, since npm's registry could "
            "not be reached; CNNRES_REQUIRE_VIEWER=1 makes this an error\n"
        )
    wheels = list(options.into.glob("*.whl"))
    megabytes = sum(wheel.stat().st_size for wheel in wheels) / 1e6
    sys.stdout.write(
        f"gathered {len(wheels)} wheels, {megabytes:.0f} MB, in {options.into}; "
        f"SHA-256 of {SUMS}: {digest}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
