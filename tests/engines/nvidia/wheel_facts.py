"""What our code relies on in NVIDIA's wheels and ONNX Runtime's, read off them.

`wheels/*.json` holds what was found in the wheels of several versions, so that
tests need none of them. To read more:

    python -m tests.engines.nvidia.wheel_facts WHEEL...
"""

import ast
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cnnres_infer.engines.nvidia.elf import needed_libraries

Facts = dict[str, Any]
ENGINES = Path(__file__).resolve().parents[3] / "cnnres_infer" / "engines"
FOLDER = Path(__file__).parent / "wheels"
# The options of each provider's library.
OPTIONS = {
    "libonnxruntime_providers_cuda.so": (
        "device_id", "use_tf32", "enable_cuda_graph", "cudnn_conv_algo_search",
    ),
    "libonnxruntime_providers_tensorrt.so": (
        "device_id", "trt_fp16_enable", "trt_int8_enable", "trt_engine_cache_enable",
        "trt_engine_cache_path", "trt_timing_cache_enable", "trt_timing_cache_path",
        "trt_cuda_graph_enable", "trt_profile_min_shapes", "trt_profile_opt_shapes",
        "trt_profile_max_shapes",
    ),
    "libonnxruntime_providers_nv_tensorrt_rtx.so": (
        "nv_runtime_cache_path", "nv_profile_min_shapes", "nv_profile_opt_shapes",
        "nv_profile_max_shapes",
    ),
}  # fmt: skip
# Which libraries of a wheel are of interest.
_LIBRARY = re.compile(r"(onnxruntime_pybind11_state|libonnxruntime_providers_(?!shared)).*\.so$")
_SIGNATURES = """
import inspect, json, sys
from cuda.bindings import runtime
def facts(name):
    call = getattr(runtime, name)
    lines = [line.strip() for line in call.__doc__.splitlines()]
    returned = lines[lines.index("Returns") + 2 :]
    named = [line for line in returned if " : " in line or line == "bytes"]
    return {"parameters": len(inspect.signature(call).parameters), "values": len(named)}
print(json.dumps({name: facts(name) for name in sys.argv[1:]}))
"""


def calls_of_cuda() -> dict[str, set[int]]:
    """The numbers of arguments with which each function of the CUDA runtime is called."""
    found: dict[str, set[int]] = {}
    for node in ast.walk(ast.parse((ENGINES / "tensorrt" / "cuda.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
            if name in ("runtime", "_runtime"):
                found.setdefault(node.func.attr, set()).add(len(node.args))
    for name in released_by_cuda():
        found.setdefault(name, set()).add(1)
    return found


def released_by_cuda() -> set[str]:
    """Functions of the CUDA runtime that are passed on, to be called with one argument."""
    tree = ast.parse((ENGINES / "tensorrt" / "cuda.py").read_text())
    passed = (a for n in ast.walk(tree) if isinstance(n, ast.Call) for a in n.args)
    named = {each.attr for each in passed if isinstance(each, ast.Attribute)}
    return {name for name in named if re.match(r"cuda(Free|\w+Destroy)", name)}


def of_wheel(path: Path) -> tuple[str, Facts]:
    """Name and version of a wheel, and what it says about itself."""
    name, version = path.name.split("-")[:2]
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(folder)
        facts = _of_bindings(folder) if name == "cuda_bindings" else _of_libraries(Path(folder))
    return f"{name.replace('_', '-')}-{version}", facts


def of_installed_bindings() -> Facts:
    """What the installed cuda-bindings say."""
    return _of_bindings("")


def _of_bindings(folder: str) -> Facts:
    command = [sys.executable, "-c", _SIGNATURES, *sorted(calls_of_cuda())]
    done = subprocess.run(
        command, env={"PYTHONPATH": folder}, capture_output=True, text=True, check=True
    )
    return {"calls": json.loads(done.stdout)}


def _of_libraries(folder: Path) -> Facts:
    libraries = sorted(path for path in folder.rglob("*.so") if _LIBRARY.search(path.name))
    return {
        "needed": {p.name.partition(".cpython")[0]: list(needed_libraries(p)) for p in libraries},
        "options": {p.name: _options(p) for p in libraries if p.name in OPTIONS},
        "shipped": sorted(
            path.name for path in folder.rglob("libcudart*") if ".so" in path.name
        ),
        "sms": sorted(_sms(folder.rglob("*provider_options.h"))),
    }  # fmt: skip


def _options(library: Path) -> list[str]:
    content = library.read_bytes()
    return [name for name in OPTIONS[library.name] if b"\0" + name.encode() + b"\0" in content]


def _sms(headers: Iterable[Path]) -> set[int]:
    """The compute capabilities that the plug-in's header lists."""
    lists = (re.search(r"kTargetSMValues\[\] = \{(.*?)\}", path.read_text()) for path in headers)
    return {int(sm) for found in lists if found for sm in re.findall(r"sm(\d+)", found[1])}


if __name__ == "__main__":
    for each in map(Path, sys.argv[1:]):
        title, found = of_wheel(each)
        (FOLDER / f"{title}.json").write_text(json.dumps(found, indent=2) + "\n")
