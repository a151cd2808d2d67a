"""Record for which targets all dependencies have wheels, in ``targets.json``.

    pip install uv
    python wheels/targets.py [--all]

uv resolves the dependencies of each extra for each target from the metadata on PyPI, with
wheels only. What is recorded for unchanged requirements is kept, unless with ``--all``.
``tests/wheels/test_targets.py`` compares the record with what is documented and
declared, offline.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent / "pyproject.toml"
RECORD = HERE / "targets.json"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# The names that uv gives to the oldest systems that are supported.
TARGETS = {
    "linux-x86_64": "x86_64-manylinux_2_28",
    "linux-aarch64": "aarch64-manylinux_2_35",
    "windows-x86_64": "x86_64-pc-windows-msvc",
    "macos-arm64": "aarch64-apple-darwin",
}
_OLDEST_MACOS = "14.0"
_PIN = re.compile(r"^[\w.-]+==\S+", re.MULTILINE)


def declared() -> dict[str, list[str]]:
    """The requirements of the package, under an empty name, and those of each extra."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def resolve(extra: str, target: str, python: str) -> list[str] | None:
    """All packages to install, pinned; None if some have no wheel for the target."""
    command = ["uv", "pip", "compile", str(PROJECT), "--no-header", "--no-annotate"]
    command += ["--quiet", "--only-binary=:all:", f"--python-version={python}"]
    command += [f"--python-platform={TARGETS[target]}", *([f"--extra={extra}"] if extra else [])]
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": _OLDEST_MACOS}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode and "No solution found" not in done.stderr:
        raise RuntimeError(done.stderr)
    return None if done.returncode else _PIN.findall(done.stdout)


def recorded(extras: dict[str, list[str]]) -> dict[str, list[str] | None]:
    """What the record holds for requirements that have not changed."""
    if not RECORD.is_file():
        return {}
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    before = record["requirements"]
    if before[""] != extras[""]:
        return {}
    return {
        key: packages
        for key, packages in record["packages"].items()
        if before[key.split(" ")[2]] == extras.get(key.split(" ")[2])
    }


def main() -> None:
    """Write the record."""
    extras = declared()
    known = {} if "--all" in sys.argv else recorded(extras)

    def packages(extra: str, target: str, python: str) -> list[str] | None:
        key = f"{target} {python} {extra}"
        return known[key] if key in known else resolve(extra, target, python)

    lines = [
        f'  "{target} {python} {extra}": {json.dumps(packages(extra, target, python))}'
        for target in TARGETS
        for python in PYTHONS
        for extra in extras
    ]
    record = f'{{\n "requirements": {json.dumps(extras, indent=2)},\n'
    record += ' "packages": {\n' + ",\n".join(lines) + "\n }\n}\n"
    RECORD.write_text(record, encoding="utf-8")
    sys.stdout.write(f"wrote {RECORD}\n")


if __name__ == "__main__":
    main()
