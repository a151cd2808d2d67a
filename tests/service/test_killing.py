"""Killed at any of its steps and started again, a service loses nothing and doubles nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.service.studies import write_nifti, write_study

if sys.platform == "win32":
    pytest.skip("Windows has no fork", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]


def kill_everywhere(mode: str, case: Path, bundle: Path, folder: Path) -> list[dict[str, Any]]:
    run = subprocess.run(
        [sys.executable, "-m", "tests.service.killing", mode, case, bundle, folder],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    outcomes: list[dict[str, Any]] = json.loads(run.stdout)
    assert [each["killed"] for each in outcomes] == [*[True] * (len(outcomes) - 1), False]
    return outcomes


@pytest.mark.slow
def test_a_hot_folder(tmp_path: Path, bright_bundle: Path) -> None:
    case = write_nifti(tmp_path / "case.nii.gz")
    outcomes = kill_everywhere("watch", case, bright_bundle, tmp_path / "kills")
    assert len(outcomes) > 20
    for outcome in outcomes:
        assert outcome["log"] == ["done"]
        assert outcome["done"] == ["case"]
        assert outcome["failed"] == outcome["working"] == []
        assert outcome["originals"] == ["done/case/originals/case.nii.gz"]
        assert outcome["out"] == ["case_lesion_mask.nii.gz", "case_report.json"]


@pytest.mark.slow
def test_a_listener(tmp_path: Path, bright_bundle: Path) -> None:
    study = write_study(tmp_path / "study")
    outcomes = kill_everywhere("listen", study, bright_bundle, tmp_path / "kills")
    assert len(outcomes) > 10
    for outcome in outcomes:
        (name,) = outcome["done"]
        assert outcome["log"] == ["done"]
        assert outcome["failed"] == outcome["working"] == []
        assert outcome["out"] == [f"{name}_lesion_mask.nii.gz", f"{name}_report.json"]
        assert len(outcome["originals"]) == 24
