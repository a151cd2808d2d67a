import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnres_infer.host import machine


def test_cores_follow_affinity() -> None:
    assert machine.usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("junk", 8)]
)
def test_cores_follow_the_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cores: int
) -> None:
    unit = tmp_path / "system.slice" / "unit"
    unit.mkdir(parents=True)
    (unit.parent / "cpu.max").write_text(text)
    (unit / "cpu.max").write_text("700000 100000" if cores == 3 else "max 100000")
    (tmp_path / "cgroup").write_text("0::/system.slice/unit\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    assert machine.usable_cores() == cores


def test_peak_memory_is_plausible() -> None:
    peak = machine.peak_memory_mb()
    assert peak is not None
    assert 10 < peak < 100_000


def test_peak_memory_is_not_that_of_the_parent() -> None:
    ballast = b"x" * 300_000_000
    code = "from cnnres_infer.host.machine import peak_memory_mb as p; print(p())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout) < len(ballast) / 1e6


def test_versions_leave_out_what_is_not_installed() -> None:
    assert set(machine.versions("numpy", "no-such-package")) == {"python", "numpy"}


def test_hardware_tells_machines_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = "processor\t: {}\nmodel name\t: Fast CPU\nflags\t\t: avx2 {}\ncpu MHz\t\t: {}\n\n"
    (tmp_path / "cpuinfo").write_text(core.format(0, "amx", 2100) + core.format(1, "", 800))
    gpu = tmp_path / "nvidia" / "gpus" / "0000:00:06.0"
    gpu.mkdir(parents=True)
    (gpu / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 41\n")
    (tmp_path / "nvidia" / "version").write_text("NVRM version: NVIDIA Module  580.1\nGCC 15\n")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path / "nvidia")
    found = machine.hardware()
    assert found["system"] == sys.platform
    assert found["cpu"] == {"model name": "Fast CPU", "flags": "avx2 amx"}
    assert found["gpus"] == ["NVIDIA H100 80GB HBM3", "NVIDIA Module 580.1"]


def test_hardware_without_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "absent")
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path / "absent")
    monkeypatch.setenv("PROCESSOR_IDENTIFIER", "Intel64 Family 6")
    assert machine.hardware()["cpu"] == {"identifier": "Intel64 Family 6"}
    assert machine.hardware()["gpus"] == []
