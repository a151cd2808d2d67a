"""The commands of the tutorial work in its order, but for those that take minutes or a network."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from cnnres_infer.bundle.bundle import DEFAULT_BUNDLE
from tests import commands

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
# What stands for the export, which tests/export covers, and for gathering, tests of wheels do.
TAKES_LONG = {"python -m export": "my-bundle", "python wheels/gather.py": "stick"}


@pytest.mark.slow
def test_the_tutorial(tmp_path: Path) -> None:
    ran = []
    for command in COMMANDS:
        start = " ".join(command[:3] if command[1] == "-m" else command[:2])
        if start in TAKES_LONG:
            assert TAKES_LONG[start] in command
            files = [each for each in command if each.startswith(("cnnres_infer/", "export/"))]
            assert all((ROOT / each).is_file() for each in files)
            if "export" in start:
                shutil.copytree(DEFAULT_BUNDLE, tmp_path / "my-bundle")
            else:
                (tmp_path / "stick").mkdir()
        elif command[0] == "cp":
            shutil.copytree(tmp_path / command[2], tmp_path / command[3] / command[2])
        else:
            assert command[0] == "cnnres-infer"
            done = commands.run("cnnres_infer", *command[1:], cwd=tmp_path)
            assert done.returncode == 0, done.stdout + done.stderr
            ran.append(command[1])
    assert ran == ["verify", "demo", "doctor", "verify", "demo/demo.nii.gz"]
    for name in re.findall(r"`((?:demo|results|verification)[\w/]*\.html)`", PAGE):
        assert (tmp_path / name).is_file(), name
