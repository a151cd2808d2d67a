"""The benchmark of GPU backends on a fake machine, and where there is none."""

import re
from pathlib import Path

import pytest

from benchmarks import gpu as on_gpu
from cnnres_infer.host import cache
from tests import commands
from tests.engines import conftest

# The fixtures of another folder.
fake_machine, install_driver = conftest.fake_machine, conftest.install_driver
own_cache = conftest.own_cache
OTHERS = ("tensorrt-rtx", "ort-tensorrt", "ort-tensorrt-rtx", "ort-cuda")


def test_every_backend_has_a_row(
    fake_machine: conftest.FakeMachine, bright_bundle: Path, own_cache: Path
) -> None:
    figures = on_gpu.gpu(bright_bundle, runs=1)
    assert figures["gpu"].startswith("NVIDIA Fake 3060")
    row = figures["rows"].pop("tensorrt fp32")
    assert row["passes"]
    assert row["slices_per_s"] > 0
    # Built for the first start, and taken from the cache for the others.
    assert fake_machine.built == ["1,16,16"]
    assert not own_cache.exists()
    assert cache.cache_folder("x").parent == own_cache
    assert {name: set(row) for name, row in figures["rows"].items()} == {
        name: {"reason"} for name in OTHERS
    }


@pytest.mark.slow
def test_without_a_gpu_it_is_refused() -> None:
    done = commands.run("benchmarks", "gpu")
    assert done.returncode == 5
    assert done.stderr.startswith("benchmarks: ")
    assert re.search("no GPU to measure: .*NVIDIA driver", done.stderr)
