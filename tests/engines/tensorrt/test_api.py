"""Every name that is used of TensorRT and CUDA exists in the versions that are supported.

The JSON files list the members of the central classes of four real bindings.
"""

import ast
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from cnnres_infer.engines.tensorrt.api import make_logger, reasons
from tests.fakes.builder import FakeBuilderModule

ENGINES = Path(__file__).resolve().parents[3] / "cnnres_infer" / "engines"
VERSIONS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "api").glob("*.json"))
}
# What holds an object of which class, in which module.
HOLDERS = {
    "tensorrt/build": {
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "config": "IBuilderConfig",
        "images": "ITensor",
    },
    "tensorrt/runner": {
        "_runtime": "Runtime",
        "_engine": "ICudaEngine",
        "context": "IExecutionContext",
        "config": "IRuntimeConfig",
    },
}
# Used where a feature was found only, all of them TensorRT-RTX's.
OPTIONAL = {
    "num_compute_capabilities",
    "set_compute_capability",
    "get_engine_validity",
    "create_runtime_config",
    "create_runtime_cache",
    "set_runtime_cache",
    "set_execution_context_allocation_strategy",
    "cuda_graph_strategy",
    "dynamic_shapes_kernel_specialization_strategy",
}


def used(module: str, holders: dict[str, str]) -> set[tuple[str, str]]:
    """Pairs of class and member that a module uses, by the names of its variables."""
    found = set()
    for node in ast.walk(ast.parse((ENGINES / f"{module}.py").read_text())):
        if isinstance(node, ast.Attribute):
            holder = node.value
            name = holder.id if isinstance(holder, ast.Name) else getattr(holder, "attr", "")
            if name in holders:
                found.add((holders[name], node.attr))
    return found


MEMBERS = set().union(*(used(module, holders) for module, holders in HOLDERS.items()))


def test_the_walk_finds_what_is_used() -> None:
    assert {name for name, _ in MEMBERS} == {n for h in HOLDERS.values() for n in h.values()}
    assert ("IExecutionContext", "execute_async_v3") in MEMBERS
    assert ("Builder", "build_serialized_network") in MEMBERS
    assert {member for _, member in MEMBERS} >= OPTIONAL
    assert len(VERSIONS) == 4


@pytest.mark.parametrize("version", VERSIONS)
def test_every_member_exists(version: str) -> None:
    missing = {
        f"{name}.{member}"
        for name, member in MEMBERS
        if member not in VERSIONS[version][name] and member not in OPTIONAL
    }
    assert not missing


def test_optional_members_exist_in_tensorrt_rtx() -> None:
    (rtx,) = (classes for version, classes in VERSIONS.items() if "rtx" in version)
    optional = {(name, member) for name, member in MEMBERS if member in OPTIONAL}
    assert {member for _, member in optional} == OPTIONAL
    for name, member in optional:
        assert member in rtx[name]


def test_names_of_the_module_exist() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx-cu12")
    names = {
        path
        for module in ("tensorrt/api", "tensorrt/build", "tensorrt/runner")
        for path in dotted(module, ("trt", "_trt"))
    }
    assert {"Builder", "ILogger.Severity", "BuilderFlag.TF32", "TensorIOMode.INPUT"} <= names
    for path in names:
        assert resolves(trt, path), path


def test_names_of_cuda_exist() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs pip install cuda-bindings")
    names = dotted("tensorrt/cuda", ("runtime", "_runtime"))
    assert {"cudaMalloc", "cudaMemcpyKind.cudaMemcpyHostToDevice"} <= names
    for path in names:
        assert resolves(runtime, path), path


def dotted(module: str, roots: tuple[str, ...]) -> set[str]:
    """Dotted names that a module takes from its roots, as ``a.b`` of ``root.a.b``."""
    found = set()
    for node in ast.walk(ast.parse((ENGINES / f"{module}.py").read_text())):
        path: list[str] = []
        while isinstance(node, ast.Attribute):
            if node.attr in roots:
                break
            path.insert(0, node.attr)
            node = node.value
        name = getattr(node, "attr", getattr(node, "id", ""))
        if path and name in roots:
            found.add(".".join(path))
    return found


def resolves(module: Any, path: str) -> bool:
    try:
        for part in path.split("."):
            module = getattr(module, part)
    except AttributeError:
        return False
    return True


def test_both_flavours_have_their_module_name() -> None:
    flavours = importlib.import_module("cnnres_infer.engines.tensorrt.api").FLAVOURS
    assert {name: flavour.module for name, flavour in flavours.items()} == {
        "tensorrt": "tensorrt",
        "tensorrt-rtx": "tensorrt_rtx",
    }


@pytest.mark.parametrize("needs_device", [True, False])
def test_a_missing_gpu_is_no_error_of_a_build(needs_device: bool) -> None:
    module = FakeBuilderModule()
    logger = make_logger(module, needs_device=needs_device)
    logger.log(logger.Severity.ERROR, "[cudaResources.cpp] cudaError 35")
    assert ("cudaError 35" in logger.summary()) == needs_device
    assert logger.summary() == ""


def test_reasons_are_read_from_a_bit_mask() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx-cu12")
    assert reasons(trt, 0) == []
    assert reasons(trt, 2 | 16) == ["UNSUPPORTED_CC", "INSUFFICIENT_GPU_MEMORY"]
