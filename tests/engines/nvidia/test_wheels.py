"""The wheels of NVIDIA and ONNX Runtime have what our code relies on.

What they have was read off several versions; see `wheel_facts`. Set
CNNRES_TEST_WHEELS to a folder of wheels to read it off them again.
"""

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from shutil import which
from typing import Any, get_args, get_type_hints

import pytest
from packaging.requirements import Requirement

from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import ModelFile
from cnnres_infer.engines.nvidia.libraries import load_library
from cnnres_infer.engines.onnxruntime import gpu as ort_gpu
from cnnres_infer.engines.onnxruntime import tensorrt as ort_trt
from cnnres_infer.engines.onnxruntime.cpu import import_onnxruntime
from cnnres_infer.engines.onnxruntime.gpu import OrtCudaEngine
from cnnres_infer.engines.onnxruntime.tensorrt import OrtTensorRtEngine
from cnnres_infer.engines.tensorrt.cuda import Cuda, load_runtime
from cnnres_infer.errors import BackendUnavailableError
from tests.conftest import bright_model
from tests.engines.nvidia import wheel_facts
from tests.fakes.cuda import FakeCudaRuntime

ROOT = Path(__file__).resolve().parents[3]
FACTS = {p.stem: json.loads(p.read_text()) for p in sorted(wheel_facts.FOLDER.glob("*.json"))}
BINDINGS = {name: facts["calls"] for name, facts in FACTS.items() if "bindings" in name}
RUNTIMES = {name: facts for name, facts in FACTS.items() if name.startswith("onnxruntime-gpu")}
PLUG_INS = {name: facts for name, facts in FACTS.items() if "tensorrt-rtx" in name}
CUDA, TENSORRT = (f"libonnxruntime_providers_{name}.so" for name in ("cuda", "tensorrt"))
NAMES = ("cuda_bindings-", "onnxruntime_gpu-", "onnxruntime_ep_nv_tensorrt_rtx_cu")
WHEELS = os.environ.get("CNNRES_TEST_WHEELS", "")


def version_of(name: str) -> str:
    return name.rpartition("-")[2]


def cuda_of(needed: list[str]) -> int:
    (found,) = (int(name.rpartition(".")[2]) for name in needed if name.startswith("libcudart"))
    return found


def test_several_versions_were_read() -> None:
    majors = {version_of(name).partition(".")[0] for name in BINDINGS}
    assert majors == {"12", "13"}
    assert {cuda_of(facts["needed"][CUDA]) for facts in RUNTIMES.values()} == {12, 13}
    assert {cuda_of(*facts["needed"].values()) for facts in PLUG_INS.values()} == {12, 13}


@pytest.mark.parametrize("name", BINDINGS)
def test_cuda_is_called_as_the_bindings_declare(name: str) -> None:
    calls = wheel_facts.calls_of_cuda()
    assert {"cudaMalloc", "cudaFree", "cudaStreamCreateWithFlags"} <= set(calls)
    assert {call: facts["parameters"] for call, facts in BINDINGS[name].items()} == {
        call: next(iter(counts)) for call, counts in calls.items()
    }
    assert all(len(counts) == 1 for counts in calls.values())


@pytest.mark.parametrize("name", BINDINGS)
@pytest.mark.parametrize("call", sorted(wheel_facts.calls_of_cuda()))
def test_the_fake_of_cuda_returns_what_the_bindings_do(name: str, call: str) -> None:
    fake, facts = getattr(FakeCudaRuntime, call), BINDINGS[name][call]
    assert len(inspect.signature(fake).parameters) == 1 + facts["parameters"]
    assert len(get_args(get_type_hints(fake)["return"])) == 1 + facts["values"]


def test_the_installed_bindings_are_those_that_were_read() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs pip install cuda-bindings")
    # No function has changed between versions so far.
    assert wheel_facts.of_installed_bindings()["calls"] in BINDINGS.values()


def test_bindings_without_a_driver_name_the_remedy() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs pip install cuda-bindings")
    if load_library("libcuda.so.1"):
        pytest.skip("there is a driver")
    with pytest.raises(BackendUnavailableError, match=r"insufficient.*cuda-bindings==12\.9\.\*"):
        Cuda(load_runtime())


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_extras_take_the_right_version_of_cuda(name: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pairs = {12: "gpu-cuda12", 13: "gpu"}
    taken = {}
    for cuda, extra in pairs.items():
        (requirement,) = map(Requirement, extras["optional-dependencies"][extra])
        taken[cuda] = version_of(name) in requirement.specifier
    needed = cuda_of(RUNTIMES[name]["needed"][CUDA])
    assert taken == {needed: True, 25 - needed: False}
    advised = Requirement(ort_gpu._FOR_CUDA_12.split("'")[1])
    assert (version_of(name) in advised.specifier) == (needed == 12)


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_providers_have_our_options(name: str) -> None:
    assert RUNTIMES[name]["options"] == {
        library: list(wheel_facts.OPTIONS[library]) for library in (CUDA, TENSORRT)
    }


@pytest.mark.parametrize("name", PLUG_INS)
def test_the_plug_in_has_our_options_and_gpus(name: str) -> None:
    (library,) = PLUG_INS[name]["options"]
    assert PLUG_INS[name]["options"][library] == list(wheel_facts.OPTIONS[library])
    named = {sm for sm in PLUG_INS[name]["sms"] if sm < ort_trt._PLUG_IN_ALL_FROM}
    assert named == set(ort_trt._PLUG_IN_SMS)


@pytest.mark.parametrize("name", PLUG_INS)
def test_the_plug_in_ships_cuda_under_another_name_than_it_needs(name: str) -> None:
    """Why it is loaded by its path, by a pattern."""
    (needed,) = PLUG_INS[name]["needed"].values()
    (shipped,) = PLUG_INS[name]["shipped"]
    (wanted,) = (each for each in needed if each.startswith("libcudart"))
    assert shipped.startswith(wanted)
    assert shipped != wanted


def test_no_other_options_are_used(own_cache: Path) -> None:
    model, runtime = ModelFile("fp32", bright_model()), import_onnxruntime()
    arguments = (runtime, model, Precision.FP32, own_cache)
    for engine, library in ((OrtCudaEngine, CUDA), (OrtTensorRtEngine, TENSORRT)):
        used = {"device_id", *engine._settings(*arguments)}
        assert used == set(wheel_facts.OPTIONS[library])
    source = inspect.getsource(ort_trt)
    used = set(re.findall(r"nv_[a-z_]*(?:\{\})?[a-z_]+", source))
    assert used - {"nv_tensorrt_rtx"} == {"nv_runtime_cache_path", "nv_profile_{}_shapes"}


def test_cudnn_is_loaded_even_where_it_is_not_linked() -> None:
    linked = {ort_gpu._CUDNN in facts["needed"][CUDA] for facts in RUNTIMES.values()}
    assert linked == {True, False}


@pytest.mark.skipif(not WHEELS, reason="needs CNNRES_TEST_WHEELS=FOLDER")
@pytest.mark.parametrize(
    "path",
    [path for path in sorted(Path(WHEELS).rglob("*.whl")) if path.name.startswith(NAMES)],
    ids=lambda path: path.name,
)
def test_the_wheels_are_as_they_were_read(path: Path) -> None:
    name, facts = wheel_facts.of_wheel(path)
    assert FACTS[name] == facts


# Of the driver: the prefixes of the functions that each library has.
STUBS = {"libcuda.so.1": "cu", "libnvidia-ml.so.1": "nvml"}


def test_the_plug_in_registers_without_a_gpu(tmp_path: Path) -> None:
    """With a driver that finds none; all that the plug-in needs besides comes from its wheel."""
    plug_in = pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="needs the plug-in")
    compiler = which("cc")
    if compiler is None or load_library("libcuda.so.1"):
        pytest.skip("needs a C compiler, and no driver")
    names = set(re.findall(rb"\0(\w+)(?=\0)", Path(plug_in.get_library_path()).read_bytes()))
    for name, prefix in STUBS.items():
        calls = sorted(
            each.decode() for each in names if re.match(rf"{prefix}[A-Z]".encode(), each)
        )
        source = "".join(f"int {call}(void) {{ return 100; }}\n" for call in calls)
        command = [compiler, "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-xc", "-"]
        subprocess.run([*command, "-o", tmp_path / name], input=source, text=True, check=True)
    code = (
        "from cnnres_infer.engines.nvidia.device import Gpu\n"
        "from cnnres_infer.engines.onnxruntime import tensorrt\n"
        "gpu = Gpu(0, '0000:01:00.0', 'none', 86, 0, '580.1', '13.0')\n"
        "tensorrt._check_plug_in(gpu)\n"
        "print('devices:', tensorrt._plug_in_devices())"
    )
    environment: dict[str, Any] = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("devices: []"), done.stderr
