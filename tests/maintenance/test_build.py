"""`cnnres-infer build` and `cnnres-infer cache`, with real engines if TensorRT-RTX is installed."""

import json
import os
import stat
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cnnres_infer.engines.tensorrt.store import PlanStore
from cnnres_infer.host import cache
from cnnres_infer.maintenance import cache as cache_contents
from tests import commands
from tests.engines.tensorrt.test_store import KEY

FILE = "model.fp32.onnx"
needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="needs pip install tensorrt-rtx-cu12"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return commands.run("cnnres_infer", *arguments)


def told(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    entry: dict[str, Any] = json.loads(done.stdout)
    return entry


@needs_rtx
def test_engines_for_other_machines(bright_bundle: Path, folder: Path) -> None:
    common = ("build", "--precision", "fp32", "--bundle", bright_bundle, "--sm", 86)
    first = told(*common, "--sm", 120)
    assert first["backend"] == "tensorrt-rtx"
    assert [plan["sm"] for plan in first["plans"]] == ["86", "120"]
    for plan in first["plans"]:
        assert Path(plan["path"]).stat().st_size == plan["bytes"]
        assert plan["seconds"] > 0
    if os.name == "posix":
        assert stat.S_IMODE((folder / "plans").stat().st_mode) == 0o700
    assert [plan["seconds"] for plan in told(*common)["plans"]] == [0]
    assert told(*common, "--batch", "1,2,4")["plans"][0]["seconds"] > 0
    listed = told("cache", "list", "--bundle", bright_bundle)
    assert {(plan["sm"], plan["batch"]) for plan in listed["plans"]} == {
        ("86", "1,16,16"),
        ("86", "1,2,4"),
        ("120", "1,16,16"),
    }
    assert {plan["state"] for plan in listed["plans"]} == {"valid"}
    other = told("cache", "list")
    assert {plan["reason"] for plan in other["plans"]} == {
        "made of a model that is not in this bundle"
    }


@needs_rtx
def test_the_built_in_model(folder: Path) -> None:
    (plan,) = told("build", "--sm", 86)["plans"]
    assert 10e6 < plan["bytes"] < 20e6
    shown = run("build", "--sm", 86).stdout
    assert "SM 86: " in shown
    assert "already in the cache" in shown
    assert "medical" in shown


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--sm", "86", "--backend", "tensorrt"], 2, "the GPU of this machine only"),
        (["--sm", "86", "--backend", "ort"], 2, "does not build engines"),
        (["--sm", "86", "--batch", "8"], 2, "MIN,OPT,MAX"),
        (["--sm", "86", "--precision", "int4"], 5, "no variant for precision 'int4'"),
        ([], 5, "as --sm, such as 86"),
        pytest.param(["--sm", "87"], 5, "cannot build for compute", marks=needs_rtx),
    ],
)
def test_refusals(arguments: list[str], status: int, message: str) -> None:
    done = run("build", *arguments)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_cache_with_a_plan_of_a_flavour_that_is_not_installed(folder: Path) -> None:
    if find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    PlanStore(cache.cache_folder("plans")).put(KEY, b"plan", 1.0)
    (plan,) = told("cache")["plans"]
    assert plan["state"] == "stale"
    path = PlanStore(cache.cache_folder("plans")).put(KEY, b"plan", 1.0)
    path.write_bytes(b"torn")
    (plan,) = told("cache")["plans"]
    assert plan["reason"] == "damaged"


@needs_rtx
def test_an_engine_of_another_version_is_stale(bright_bundle: Path, folder: Path) -> None:
    from dataclasses import replace

    told("build", "--precision", "fp32", "--bundle", bright_bundle, "--sm", 86)
    store = PlanStore(folder / "plans")
    (entry,) = store.entries()
    store.put(replace(entry.key, version="1.0.0.1"), b"old", 1.0)
    plans = told("cache", "--bundle", bright_bundle)["plans"]
    (reason,) = [plan["reason"] for plan in plans if plan["state"] == "stale"]
    assert reason.startswith("version of TensorRT was 1.0.0.1, is ")


def test_clear_removes_only_our_own_files(folder: Path) -> None:
    assert told("cache", "path") == {"folder": str(folder)}
    PlanStore(cache.cache_folder("plans")).put(KEY, b"plan", 1.0)
    (folder / "diary.txt").write_text("not ours")
    assert told("cache", "clear")["files"] == 2
    assert [path.name for path in folder.iterdir()] == ["diary.txt"]
    assert "0 files" in run("cache", "clear").stdout


def test_every_part_of_the_cache_is_listed() -> None:
    assert set(cache_contents.describe().folders) == set(cache_contents.FOLDERS)
