"""Shared libraries made for tests."""

import subprocess
from pathlib import Path
from shutil import which

import pytest

COMPILER = which("cc")
compiled = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")


def make_library(path: Path, soname: str, *needed: Path) -> Path:
    """Make a library without content that links to others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [str(COMPILER), "-shared", "-fPIC", "-Wl,--no-as-needed", f"-Wl,-soname,{soname}"]
    command += ["-xc", "-", "-xnone", *map(str, needed), "-o", str(path)]
    subprocess.run(command, input=b"", check=True)
    return path
