import os
from pathlib import Path

import pytest

from cnnres_infer import machine


def test_cores_follow_affinity() -> None:
    assert machine.usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("junk", 8)]
)
def test_cores_follow_the_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(machine, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    assert machine.usable_cores() == cores


def test_peak_memory_is_plausible() -> None:
    peak = machine.peak_memory_mb()
    assert peak is not None
    assert 10 < peak < 100_000


def test_versions_leave_out_the_absent() -> None:
    assert set(machine.versions("numpy", "no-such-package")) == {"python", "numpy"}
