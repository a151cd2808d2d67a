"""Every dependency has wheels for every documented target, by the record of `targets.py`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from wheels.targets import PROJECT, PYTHONS, RECORD, TARGETS, declared

RECORDED = json.loads(RECORD.read_text(encoding="utf-8"))
PACKAGES: dict[str, list[str] | None] = RECORDED["packages"]
RENEW = "renew it: python wheels/targets.py"
# What cannot be installed from wheels, and what is to blame.
GAPS = {
    **{f"macos-arm64 {python} gpu": "onnxruntime-gpu" for python in PYTHONS},
    **{
        f"{target} {python} gpu-cuda12": "onnxruntime-gpu"
        for target in ("linux-aarch64", "macos-arm64")
        for python in PYTHONS
    },
    # highdicom depends on it. From its source, it needs a C++ compiler.
    **{f"{target} 3.14 dicom": "pyjpegls" for target in TARGETS},
}
EXTRAS = tuple(declared())


def test_the_record_is_of_the_declared_requirements() -> None:
    assert RECORDED["requirements"] == declared(), RENEW
    expected = {f"{target} {python} {extra}" for target in TARGETS for python in PYTHONS
                for extra in EXTRAS}  # fmt: skip
    assert set(PACKAGES) == expected, RENEW


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("target", TARGETS)
def test_all_dependencies_have_wheels(target: str, python: str, extra: str) -> None:
    key = f"{target} {python} {extra}"
    found = PACKAGES[key]
    if key in GAPS:
        assert found is None, f"{key} can be installed now: change GAPS and docs/stability.md"
        return
    assert found is not None
    versions = {canonicalize_name(pin.split("==")[0]): pin.split("==")[1] for pin in found}
    for text in (*declared()[""], *(declared()[extra] if extra else ())):
        requirement = Requirement(text)
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


def test_the_pythons_are_those_that_the_package_allows_and_documents() -> None:
    project = PROJECT.read_text(encoding="utf-8")
    (oldest,) = re.findall(r'^requires-python = "(.*)"$', project, re.MULTILINE)
    allowed = SpecifierSet(oldest)
    assert all(allowed.contains(each) for each in PYTHONS)
    assert not allowed.contains("3.10")
    page = (PROJECT.parent / "docs" / "stability.md").read_text(encoding="utf-8")
    assert all(f"`{culprit}`" in page for culprit in GAPS.values())
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in page
    assert f"Programming Language :: Python :: {PYTHONS[-1]}" in project


@pytest.mark.parametrize("python", PYTHONS)
def test_the_source_is_valid_in_every_python(python: str) -> None:
    """By the grammar of that version, as far as this Python knows it."""
    minor = int(python.partition(".")[2])
    if minor > sys.version_info.minor:
        pytest.skip(f"Python {sys.version_info.minor} does not know the grammar of {python}")
    code = (
        "import ast, sys\n"
        "from pathlib import Path\n"
        "for path in Path(sys.argv[1]).rglob('*.py'):\n"
        f"    ast.parse(path.read_text('utf-8'), str(path), feature_version=(3, {minor}))\n"
    )
    package = Path(PROJECT.parent, "cnnres_infer")
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(package)], check=True)
