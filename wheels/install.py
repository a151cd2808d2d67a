"""Install cnnres-infer from this folder, on a machine without internet.

    python3 install.py ENVIRONMENT [--extra openvino] [--extra dicom] [--sums SHA256]

It needs Python alone, since pip is among the wheels. Every file of the folder is
checked against ``SHA256SUMS`` first; then pip, which never asks a network, checks each
wheel against its lock again and installs into a new virtual environment.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

OLDEST_PYTHON = (3, 11)
SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\]+)")
# What of a folder is installed or run, and must therefore be listed.
_LISTED = ("*.whl", "requirements-*.lock", "install.py")


class InstallError(Exception):
    """What stands in the way of the installation; nothing was installed."""


def check_files(folder: Path, expected: str | None = None) -> str:
    """Check all files of a folder against ``SHA256SUMS``, and that against its own hash.

    Returns
    -------
    str
        SHA-256 of ``SHA256SUMS``, which pins all other files.

    Raises
    ------
    InstallError
        If a file is missing, altered, or not listed.
    """
    try:
        content = (folder / SUMS).read_bytes()
    except OSError as error:
        raise InstallError(
            f"{folder / SUMS}: {error.strerror}; gather the wheels again, and copy the whole folder"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if expected is not None and digest != expected.lower():
        raise InstallError(
            f"{folder / SUMS}: its SHA-256 is {digest}, not {expected}; copy the folder again"
        )
    listed = set()
    for line in content.decode("utf-8", "replace").splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise InstallError(f"{folder / SUMS}: damaged at {line!r}; copy the folder again")
        _check_file(folder / match[2], match[1])
        listed.add(match[2])
    for path in sorted(path for pattern in _LISTED for path in folder.glob(pattern)):
        if path.name not in listed:
            raise InstallError(
                f"{path}: not listed in {SUMS}, so nobody vouches for it; "
                "remove it, or gather the wheels again"
            )
    return digest


def _check_file(path: Path, expected: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InstallError(f"{path}: {error.strerror}; copy the folder again") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise InstallError(
            f"{path}: not the file that was gathered (its SHA-256 differs from that in {SUMS}); "
            "copy it again, and do not install it unless it matches"
        )


def locks_of(folder: Path, extras: list[str]) -> list[Path]:
    """The locks of extras.

    Raises
    ------
    InstallError
        If the folder has none for an extra.
    """
    prefix = "requirements-"
    there = sorted(path.stem[len(prefix) :] for path in folder.glob(f"{prefix}*.lock"))
    for extra in extras:
        if extra not in there:
            raise InstallError(
                f"{folder}: no wheels for the extra {extra!r}, only for: {', '.join(there)}; "
                f"gather them with: "
                f"python wheels/gather.py --into FOLDER --extra {extra}"
            )
    return [folder / f"{prefix}{extra}.lock" for extra in extras]


def install(
    folder: Path, environment: Path, extras: list[str], expected: str | None = None
) -> Path:
    """Check a folder, and install from it into a new virtual environment.

    Returns
    -------
    Path
        The folder of the environment's programs.

    Raises
    ------
    InstallError
        If a file is not what was gathered, if `environment` exists, or if pip fails;
        then there is no environment.
    """
    check_files(folder, expected)
    locks = locks_of(folder, extras)
    if environment.exists():
        raise InstallError(f"{environment} already exists; choose another folder, or remove it")
    try:
        return _install(folder, environment, locks)
    except BaseException:
        shutil.rmtree(environment, ignore_errors=True)
        raise


def _install(folder: Path, environment: Path, locks: list[Path]) -> Path:
    venv.create(environment, symlinks=os.name != "nt", with_pip=False)
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    python = programs / ("python.exe" if os.name == "nt" else "python")
    command = [str(python), "-I", str(pip_of(folder)), "--isolated", "--disable-pip-version-check"]
    command += ["install", "--quiet", "--no-index", f"--find-links={folder}", "--only-binary=:all:"]
    command += ["--require-hashes", "--no-cache-dir"]
    command += [f"--requirement={lock}" for lock in locks]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    done = subprocess.run(command, env={**clean, "PIP_CONFIG_FILE": os.devnull}, check=False)
    if done.returncode != 0:
        raise InstallError(
            "pip could not install the wheels (see above); they are for the platform and the "
            "version of Python that they were gathered for"
        )
    return programs


def pip_of(folder: Path) -> Path:
    """The pip among the wheels; Python's own is left out of some systems, such as Debian.

    Raises
    ------
    InstallError
        If it is missing.
    """
    for wheel in folder.glob("pip-*.whl"):
        return wheel / "pip"
    raise InstallError(
        f"{folder}: no pip in it; gather the wheels again, and copy the whole folder"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        description="Install cnnres-infer from this folder, without internet."
    )
    parser.add_argument("environment", type=Path, help="virtual environment to create")
    parser.add_argument(
        "--extra", action="append", help="what to install, may be given again; default: cpu"
    )
    parser.add_argument("--sums", help=f"SHA-256 that {SUMS} must have, as gather.py printed it")
    options = parser.parse_args(arguments)
    try:
        if sys.version_info < OLDEST_PYTHON:
            raise InstallError(f"Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer is needed")
        folder = Path(__file__).resolve().parent
        programs = install(folder, options.environment, options.extra or ["cpu"], options.sums)
    except (InstallError, OSError) as error:
        sys.stderr.write(f"install: {error}\n")
        return 1
    sys.stdout.write(f"installed; next: {programs / 'cnnres-infer'} verify\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
