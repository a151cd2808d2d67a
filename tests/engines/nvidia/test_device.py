import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cnnres_infer.cli import options
from cnnres_infer.engines import NVIDIA, probe
from cnnres_infer.engines.base import Probe
from cnnres_infer.engines.nvidia import device
from cnnres_infer.engines.nvidia.device import DEVICE, Gpu, find_gpu
from tests.fakes.driver import FakeDriver

Install = Callable[[FakeDriver], None]
DESCRIBED = "NVIDIA Fake 3060 (SM 86, 12 GB, PCI 0000:1b:00.0)"


def test_the_driver_describes_the_gpu(install_driver: Install) -> None:
    install_driver(FakeDriver())
    found = find_gpu()
    assert found == Gpu(0, "0000:1b:00.0", "NVIDIA Fake 3060", 86, 12_000_000_000, "580.1", "13.1")
    assert str(found) == DESCRIBED
    assert (found.capability, found.cuda_major) == ("8.6", 13)


def test_the_gpu_is_chosen_by_its_number_in_cuda(
    install_driver: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(FakeDriver(gpus=2))
    addresses = {}
    for number in ("", "0", "1"):
        monkeypatch.setenv(DEVICE, number)
        found = find_gpu()
        assert isinstance(found, Gpu)
        addresses[number] = found.pci
    assert addresses == {"": "0000:1c:00.0", "0": "0000:1c:00.0", "1": "0000:1b:00.0"}


@pytest.mark.parametrize("number", ["2", "-1", "first"])
def test_a_gpu_that_is_not_there(
    install_driver: Install, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    install_driver(FakeDriver(gpus=2))
    monkeypatch.setenv(DEVICE, number)
    found = probe("tensorrt")
    assert not found.usable
    assert f"there is no GPU {number}" in found.reason
    assert "1: NVIDIA Fake 3060 (SM 86, 12 GB, PCI 0000:1b:00.0)" in found.reason
    assert "CUDA_VISIBLE_DEVICES" in found.remedy


def test_the_command_line_uses_the_same_variable() -> None:
    assert options._DEVICE == DEVICE


@pytest.mark.parametrize(
    ("driver", "reason", "remedy"),
    [
        (FakeDriver(status=100), r"fake error 100 \(100\)", "--gpus all"),
        (FakeDriver(status=803), "fake error 803", "restart the machine"),
        (FakeDriver(status=999), "fake error 999", "nvidia-smi"),
        (FakeDriver(gpus=0), "finds no GPU", "--gpus all"),
    ],
)
def test_a_driver_without_a_gpu(
    install_driver: Install, driver: FakeDriver, reason: str, remedy: str
) -> None:
    install_driver(driver)
    found = find_gpu()
    assert isinstance(found, Probe)
    assert not found.usable
    with pytest.raises(Exception, match=reason):
        found.require()
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22", "550.54.14"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build",
            "580.95.05",
        ),
        ("GCC version:  gcc version 13.2.0", ""),
        (None, ""),
    ],
)
def test_the_kernel_module_tells_the_drivers_version_without_a_management_library(
    install_driver: Install,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str | None,
    version: str,
) -> None:
    driver = FakeDriver()
    install_driver(driver)

    def load(name: str) -> FakeDriver:
        if name == device._MANAGEMENT:
            raise OSError(name)
        return driver

    monkeypatch.setattr(device, "_load", load)
    monkeypatch.setattr(device, "_VERSION", tmp_path / "version")
    if text is not None:
        (tmp_path / "version").write_text(f"{text}\n")
    found = find_gpu()
    assert isinstance(found, Gpu)
    assert found.driver == version


def test_no_backend_for_gpus_is_imported_where_there_is_no_driver() -> None:
    code = (
        "import sys\n"
        "from cnnres_infer.engines import NVIDIA, probe\n"
        "from cnnres_infer.engines.nvidia import device as gpu\n"
        "def absent(name): raise OSError(name)\n"
        "gpu._load = absent\n"
        "assert not any(probe(name).usable for name in NVIDIA)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert not {"tensorrt", "tensorrt_rtx", "onnxruntime", "cuda"} & modules
    assert (
        not {"cnnres_infer.engines.tensorrt.engine", "cnnres_infer.engines.onnxruntime.gpu"}
        & modules
    )


@pytest.mark.parametrize("name", NVIDIA)
def test_backends_say_what_is_missing_beside_a_gpu(install_driver: Install, name: str) -> None:
    install_driver(FakeDriver())
    found = probe(name)
    if found.usable:
        pytest.skip("it is installed here")
    assert found.devices == (DESCRIBED,)
    assert found.remedy
