import subprocess
import sys
from collections.abc import Callable

import pytest

from cnnres_infer.engines import NVIDIA, probe
from cnnres_infer.engines.base import Probe
from cnnres_infer.engines.nvidia.device import Gpu, find_gpu
from tests.fakes.driver import FakeDriver

Install = Callable[[FakeDriver], None]


def test_the_driver_describes_the_gpu(install_driver: Install) -> None:
    install_driver(FakeDriver())
    assert find_gpu() == Gpu("NVIDIA Fake 3060", 86, 12_000_000_000, "580.1", "13.1")
    assert str(find_gpu()) == "NVIDIA Fake 3060 (SM 86, 12 GB)"


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
    assert found.devices == ("NVIDIA Fake 3060 (SM 86, 12 GB)",)
    assert found.remedy
