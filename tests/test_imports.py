"""Imports stay light: heavy libraries are loaded only when they are used."""

import json
import pkgutil
import subprocess
import sys

import pytest

import cnnres_infer

HEAVY = {
    *("torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda", "onnx"),
    *("pydicom", "pynetdicom", "highdicom", "dcm2niix", "gdcm", "openjpeg"),
    *("nibabel", "scipy", "cc3d", "PIL", "threadpoolctl", "cryptography"),
    *("dask", "distributed", "submitit"),
}
PROBE = """
import importlib, json, sys
seen, loaded = {}, set()
for name in sys.argv[1:]:
    importlib.import_module(name)
    now = {each.split(".")[0] for each in sys.modules}
    seen[name] = sorted(now - loaded)
    loaded |= now
print(json.dumps(seen))
"""


def submodules() -> list[str]:
    walked = pkgutil.walk_packages(cnnres_infer.__path__, "cnnres_infer.")
    return [module.name for module in walked if not module.name.endswith("__main__")]


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """Libraries that each submodule loads in addition to those before it."""
    command = [sys.executable, "-c", PROBE, *submodules()]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("module", submodules())
def test_no_submodule_loads_heavy_libraries(module: str, loaded: dict[str, list[str]]) -> None:
    assert not HEAVY & set(loaded[module])


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, cnnres_infer; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "numpy" not in run.stdout.split()


def test_public_names() -> None:
    for name in cnnres_infer.__all__:
        assert getattr(cnnres_infer, name)
    with pytest.raises(AttributeError, match="nothing"):
        cnnres_infer.nothing  # noqa: B018
