import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.cli.doctor import render
from cnnres_infer.engines import BACKENDS, NVIDIA
from cnnres_infer.engines.nvidia import device as gpu
from cnnres_infer.engines.nvidia.device import find_gpus
from cnnres_infer.engines.onnxruntime.tensorrt import OrtTensorRtEngine
from cnnres_infer.engines.tensorrt.api import Flavour
from cnnres_infer.errors import (
    BackendUnavailableError,
    DeviceUnsupportedError,
    NotInstalledError,
)
from cnnres_infer.host import cache, machine
from cnnres_infer.host.machine import versions
from cnnres_infer.maintenance import doctor
from cnnres_infer.maintenance.doctor import DoctorReport, Finding
from tests.conftest import BundleMaker
from tests.fakes.driver import FakeDriver

Place = Callable[[str, str], None]


@pytest.fixture
def examine(
    bright_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], dict[str, Any]]:
    """Examine this machine, and return the findings by subject."""
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))

    def by_subject() -> dict[str, Any]:
        report = doctor.examine(bright_bundle)
        return {**by_name(report), "taken": report.auto}

    return by_subject


@pytest.fixture
def no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A machine without the NVIDIA driver; the result adds a device of a vendor and class."""

    def absent(name: str) -> None:
        raise OSError(name)

    def place(vendor: str, kind: str) -> None:
        device = tmp_path / "pci" / f"0000:00:{len(list((tmp_path / 'pci').glob('*')))}"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")

    monkeypatch.setattr(gpu, "_load", absent)
    (tmp_path / "pci").mkdir()
    monkeypatch.setattr(gpu, "_PCI", tmp_path / "pci")
    monkeypatch.setattr(gpu, "_OFF_THE_BUS", (tmp_path / "dxg",))
    monkeypatch.setattr(Flavour, "installed", lambda _self: {})
    find_gpus.cache_clear()
    yield place
    find_gpus.cache_clear()


def by_name(report: DoctorReport) -> dict[str, Finding]:
    return {finding.subject: finding for finding in report.findings}


def printed(report: DoctorReport) -> list[str]:
    console = Console(file=io.StringIO(), width=1000)
    render(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_without_a_gpu_there_is_one_line_without_a_remedy(
    no_driver: Place, examine: Callable[[], dict[str, Any]], bright_bundle: Path
) -> None:
    no_driver("0x8086", "0x030000")
    no_driver("0x10de", "0x020000")
    lines = printed(doctor.examine(bright_bundle))
    (line,) = [each for each in lines if "NVIDIA driver" in each]
    assert line.startswith(f"NONE GPU, {', '.join(NVIDIA)}: no NVIDIA driver here")
    assert not any("nvidia.com" in each for each in lines)


@pytest.mark.parametrize("bus", [True, False])
def test_if_the_bus_may_hide_gpus_a_missing_driver_is_a_warning(
    no_driver: Place,
    examine: Callable[[], dict[str, Any]],
    bright_bundle: Path,
    tmp_path: Path,
    bus: bool,
) -> None:
    if bus:
        (tmp_path / "dxg").touch()
    else:
        (tmp_path / "pci").rmdir()
    by_subject = by_name(doctor.examine(bright_bundle))
    assert {by_subject[name].status for name in (*NVIDIA, "GPU")} == {"WARN"}
    assert "nvidia.com/drivers" in by_subject["tensorrt"].remedy


def test_what_missed_the_accuracy_gate_is_named(make_bundle: BundleMaker) -> None:
    pytest.importorskip("openvino")
    bundle = Bundle.open(make_bundle(calibration={"variants": {"bf16": {"passed": False}}}))
    found = doctor._backend(bundle, "openvino")
    assert found.status == "OK"
    assert found.reason.endswith("not used after missing the bundle's accuracy gate: bf16")
    assert "accuracy gate" not in doctor._backend(bundle, "ort").reason


@pytest.mark.parametrize("kind", ["0x030000", "0x030200"])
def test_a_gpu_without_a_driver_is_a_warning(
    no_driver: Place, examine: Callable[[], dict[str, Any]], bright_bundle: Path, kind: str
) -> None:
    no_driver("0x10de", kind)
    report = doctor.examine(bright_bundle)
    by_subject = by_name(report)
    for name in (*NVIDIA, "GPU"):
        assert by_subject[name].status == "WARN"
    lines = printed(report)
    (at,) = [i for i, each in enumerate(lines) if "an NVIDIA GPU is in this machine" in each]
    assert lines[at].startswith("WARN GPU, tensorrt")
    assert "nvidia.com/drivers" in lines[at + 1]
    assert "--gpus all" in lines[at + 1]


@pytest.mark.parametrize("driver", [FakeDriver(status=999), FakeDriver(gpus=0)])
def test_a_driver_without_a_gpu_is_a_warning(
    no_driver: Place,
    examine: Callable[[], dict[str, Any]],
    bright_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    driver: FakeDriver,
) -> None:
    monkeypatch.setattr(gpu, "_load", driver.load)
    lines = printed(doctor.examine(bright_bundle))
    assert not any(line.startswith("NONE") for line in lines)
    assert any(line.startswith("WARN GPU, tensorrt") for line in lines)
    assert any("to fix it" in line and "nvidia-smi" in line for line in lines)


def test_a_machine_without_a_gpu(no_driver: Place, examine: Callable[[], dict[str, Any]]) -> None:
    found = examine()
    assert set(BACKENDS) <= set(found)
    for name in (*NVIDIA, "GPU"):
        assert found[name].status == "NONE"
        assert "no NVIDIA driver here" in found[name].reason
        assert found[name].remedy == ""
    assert found["ort"].status == "OK"
    assert re.search(r"Dice with PyTorch 1.0000 on the \d+ reference", found["ort"].reason)
    assert found["taken"].backend in ("openvino", "ort")
    assert all(name in found["auto"].reason for name in NVIDIA)


def _without_openvino(*names: str) -> dict[str, str]:
    return {name: v for name, v in versions(*names).items() if name != "openvino"}


def test_an_engine_that_disagrees_is_broken(
    examine: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnres_infer.engines.onnxruntime.cpu import OrtEngine

    monkeypatch.setattr(machine, "versions", _without_openvino)
    run = OrtEngine.run
    monkeypatch.setattr(OrtEngine, "run", lambda self, images: 0 * run(self, images))
    found = examine()
    assert found["ort"].status == "FAIL"
    assert "Dice with PyTorch 0.0000" in found["ort"].reason
    assert "verify --backend ort" in found["ort"].remedy
    assert found["auto"].status == "FAIL"
    assert found["taken"] is None


def test_an_installed_but_broken_backend_fails(
    examine: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(*names: str) -> dict[str, str]:
        return {"python": "3"} | {name: "1" for name in names if name.startswith("onnxruntime")}

    monkeypatch.setattr(machine, "versions", both)
    found = examine()
    assert found["ort"].status == "FAIL"
    assert "overwrite each other" in found["ort"].reason
    assert found["ort"].remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DeviceUnsupportedError("it does not exist for this GPU", "use another"), "NONE"),
        (NotInstalledError("it lacks libnvinfer.so.10", "install TensorRT"), "WARN"),
        (BackendUnavailableError("it needs a newer driver", "update it"), "FAIL"),
    ],
)
def test_only_what_is_broken_fails(
    bright_bundle: Path,
    no_driver: Place,
    monkeypatch: pytest.MonkeyPatch,
    error: BackendUnavailableError,
    status: str,
) -> None:
    def refuse(_versions: dict[str, str], _gpu: object) -> None:
        raise error

    monkeypatch.setattr(gpu, "_load", FakeDriver().load)
    monkeypatch.setattr(machine, "versions", lambda *_names: {"onnxruntime-gpu": "1.29.0"})
    monkeypatch.setattr(OrtTensorRtEngine, "_check_installed", refuse)
    found = doctor._backend(Bundle.open(bright_bundle), "ort-tensorrt")
    assert (found.status, found.reason) == (status, error.reason)


def test_cores_that_may_not_be_used(
    examine: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "present_cores", lambda: 64)
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    cores = examine()["cores"]
    assert cores.status == "WARN"
    assert cores.reason.startswith("2 of 64 cores")


def test_conflicting_versions_of_tensorrt(
    examine: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_tensorrt_of_onnxruntime", lambda: "10")
    installed = {"tensorrt": "11.4.0.106"}
    monkeypatch.setattr(Flavour, "installed", lambda _self: installed)
    conflict = list(doctor._conflicts())
    assert [finding.status for finding in conflict] == ["WARN"]
    assert "links TensorRT 10, but TensorRT 11.4.0.106" in conflict[0].reason
    monkeypatch.setattr(Flavour, "installed", lambda _self: {"tensorrt": "10.3"})
    assert list(doctor._conflicts()) == []


def test_processor_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_CPUINFO", info)
    info.write_text("model name\t: Fake\nflags\t: fpu avx2 avx512f avx_vnni\n\nflags\t: amx_tile\n")
    features = machine.cpu_features()
    assert features == {"AVX2": True, "AVX-512": True, "VNNI": True, "BF16": False, "AMX": False}
    assert machine.processor() == "Fake"
    info.write_text("Features\t: fp asimddp bf16\n")
    assert machine.cpu_features() == {"dot product": True, "I8MM": False, "BF16": True}
    info.unlink()
    assert machine.cpu_features() == {}


def test_the_command(bright_bundle: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "cnnres_infer",
        "doctor",
        "--bundle",
        str(bright_bundle),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "OK   ort:" in shown
    assert "--backend auto selects" in shown
    told = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    findings = json.loads(told)["findings"]
    assert {"subject", "status", "reason", "remedy"} == set(findings[0])
    assert "`" not in told
    assert not any(each["remedy"] for each in findings if each["status"] in ("OK", "NONE"))
