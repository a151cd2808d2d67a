"""The NVIDIA GPU that this process uses, queried through the driver alone.

All engines of a process use the same GPU. Libraries count GPUs in different
orders (CUDA by speed, ONNX Runtime's plug-ins by PCI address), so a GPU is
identified by its PCI address, and by its number only where CUDA is asked.
"""

import ctypes
import os
import platform
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cnnres_infer.engines.base import Probe

_WINDOWS = sys.platform == "win32"
_DRIVER = "nvcuda.dll" if _WINDOWS else "libcuda.so.1"
_MANAGEMENT = "nvml.dll" if _WINDOWS else "libnvidia-ml.so.1"
# In containers that have no management library.
_VERSION = Path("/proc/driver/nvidia/version")
_MODULE = re.compile(r"Kernel Module(?: for \S+)? +(\d[\d.]+)")
_PCI, _NVIDIA, _DISPLAY = Path("/sys/bus/pci/devices"), "0x10de", "0x03"
# A Jetson's GPU is part of its chip, and WSL passes one through, so neither is on the PCI bus.
_OFF_THE_BUS = (Path("/etc/nv_tegra_release"), Path("/dev/dxg"))
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
# Number of the GPU to use, as CUDA counts those that CUDA_VISIBLE_DEVICES leaves.
DEVICE = "CNNRES_INFER_DEVICE"
_INSTALL_DRIVER = (
    'install the driver of an NVIDIA GPU (https://www.nvidia.com/drivers), or use `backend="ort"`'
)
_REMEDIES = {
    100: "in a container, use docker run --gpus all; check CUDA_VISIBLE_DEVICES and nvidia-smi",
    803: "restart the machine: the driver was updated, but the old one is still running",
    804: "update the driver: this one is too old for the CUDA libraries in use",
}


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes
    ----------
    index
        Number in CUDA, among the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves visible.
    pci
        PCI address, such as ``"0000:01:00.0"``; empty if the driver does not report one.
    name
        Name in the driver.
    sm
        Compute capability, as ten times its major plus its minor version: 86 for 8.6.
    memory
        Size in bytes.
    driver
        Version of the driver; empty if it does not report one (Jetson).
    cuda
        Newest CUDA version that the driver supports.
    """

    index: int
    pci: str
    name: str
    sm: int
    memory: int
    driver: str
    cuda: str

    def __str__(self) -> str:
        address = f", PCI {self.pci}" if self.pci else ""
        return f"{self.name} (SM {self.sm}, {self.memory / 1e9:.0f} GB{address})"

    @property
    def capability(self) -> str:
        """Compute capability as NVIDIA writes it, such as ``"8.6"``."""
        return f"{self.sm // 10}.{self.sm % 10}"

    @property
    def cuda_major(self) -> int:
        """Major version of `cuda`."""
        return int(self.cuda.partition(".")[0])


def find_gpu() -> Gpu | Probe:
    """Find the GPU to use, or return a probe that says why there is none.

    It is the one whose number is in the environment variable
    ``CNNRES_INFER_DEVICE``, and otherwise the first that CUDA lists. Takes well
    under a millisecond if no driver is installed.
    """
    found = find_gpus()
    if isinstance(found, Probe):
        return found
    wanted = os.environ.get(DEVICE) or "0"
    for gpu in found:
        if wanted == str(gpu.index):
            return gpu
    listed = "; ".join(f"{gpu.index}: {gpu}" for gpu in found)
    return Probe(
        False,
        f"there is no GPU {wanted} among those visible to CUDA ({listed})",
        f"set {DEVICE} to one of them, or check CUDA_VISIBLE_DEVICES",
    )


@cache
def find_gpus() -> tuple[Gpu, ...] | Probe:
    """List the GPUs that CUDA lists, or return a probe that says why there are none."""
    try:
        driver = _load(_DRIVER)
    except OSError:
        return _without_driver()
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status:
        reason = f"the NVIDIA driver failed: {_error(driver, status)}"
        return Probe(False, reason, _REMEDIES.get(status, "run nvidia-smi and fix what it reports"))
    if not count.value:
        return Probe(False, "the NVIDIA driver finds no GPU", _REMEDIES[100])
    return tuple(_describe(driver, index) for index in range(count.value))


def system() -> tuple[str, str]:
    """Operating system and processor architecture, which compiled engines depend on."""
    return platform.system(), platform.machine()


def _load(name: str) -> Any:
    return ctypes.CDLL(name)


def _without_driver() -> Probe:
    missing = f"no NVIDIA driver here ({_DRIVER} not found)"
    if _has_no_gpu():
        return Probe(False, missing, _INSTALL_DRIVER, absent=True)
    if not _is_on_bus():
        return Probe(False, missing, _INSTALL_DRIVER)
    return Probe(
        False,
        f"an NVIDIA GPU is in this machine, but {missing}",
        f"{_INSTALL_DRIVER}; in a container, use docker run --gpus all",
    )


def _has_no_gpu() -> bool:
    """Whether there is certainly no NVIDIA GPU: only known if the PCI bus lists all, as on a PC."""
    off_bus = any(path.exists() for path in _OFF_THE_BUS)
    return _PCI.is_dir() and not off_bus and not _is_on_bus()


def _is_on_bus() -> bool:
    """Whether Linux finds an NVIDIA GPU on the PCI bus, with or without a driver for it."""
    for device in _PCI.glob("*"):
        try:
            vendor, kind = ((device / name).read_text() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor.strip() == _NVIDIA and kind.startswith(_DISPLAY):
            return True
    return False


def _describe(driver: Any, index: int) -> Gpu:
    device, memory, version = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_int()
    name, pci = ctypes.create_string_buffer(256), ctypes.create_string_buffer(32)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceGetPCIBusId(pci, len(pci), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    driver.cuDriverGetVersion(ctypes.byref(version))
    capability = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    return Gpu(
        index,
        pci.value.decode().lower(),
        name.value.decode(),
        10 * capability[0] + capability[1],
        memory.value,
        _driver_version(),
        f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def _driver_version() -> str:
    return _managed_version() or _module_version()


def _managed_version() -> str:
    try:
        management = _load(_MANAGEMENT)
    except OSError:
        return ""
    if management.nvmlInit_v2():
        return ""
    text = ctypes.create_string_buffer(96)
    failed = management.nvmlSystemGetDriverVersion(text, len(text))
    management.nvmlShutdown()
    return "" if failed else text.value.decode()


def _module_version() -> str:
    """Version of the kernel module, which is that of the driver; known on Linux only."""
    try:
        found = _MODULE.search(_VERSION.read_text())
    except OSError:
        return ""
    return found[1] if found else ""


def _error(driver: Any, status: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(text))
    return f"{(text.value or b'unknown error').decode()} ({status})"
