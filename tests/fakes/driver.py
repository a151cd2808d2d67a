"""A fake of NVIDIA's driver library and of its management library."""

from typing import Any

ATTRIBUTES = {75: "major", 76: "minor"}


class FakeDriver:
    """Both libraries at once; `status` is what cuInit returns.

    The GPUs are numbered against the order of their PCI addresses, as CUDA does
    where the fastest has the highest.
    """

    def __init__(
        self, version: str = "580.1", status: int = 0, gpus: int = 1, cuda: int = 13010
    ) -> None:
        self.version = version
        self.status = status
        self.gpus = gpus
        self.cuda = cuda
        self.memory = 12_000_000_000
        self.capability = {"major": 8, "minor": 6}

    def load(self, _name: str) -> "FakeDriver":
        return self

    def cuInit(self, _flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.gpus
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetPCIBusId(self, pci: Any, _size: int, device: Any) -> int:
        pci.value = f"0000:{0x1A + self.gpus - device.value:02X}:00.0".encode()
        return 0

    def cuDeviceGetName(self, name: Any, _size: int, _device: Any) -> int:
        name.value = b"NVIDIA Fake 3060"
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, _device: Any) -> int:
        memory._obj.value = self.memory
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.cuda
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, _device: Any) -> int:
        value._obj.value = self.capability[ATTRIBUTES[attribute]]
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:
        text._obj.value = f"fake error {status}".encode()
        return 0

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlSystemGetDriverVersion(self, text: Any, _size: int) -> int:
        text.value = self.version.encode()
        return 0

    def nvmlShutdown(self) -> int:
        return 0
