"""Libraries that pip installs where the loader does not look, and versions of CUDA."""

import sys
from pathlib import Path

import pytest

from cnnres_infer.engines.nvidia import libraries
from cnnres_infer.engines.nvidia.device import Gpu
from cnnres_infer.engines.nvidia.libraries import (
    check_driver,
    cuda_of_library,
    cuda_of_packages,
    load_library,
    loaded_versions,
    missing_libraries,
)
from cnnres_infer.errors import BackendUnavailableError
from tests.engines.native import compiled, make_library

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only wheels of Linux")


@linux
@compiled
def test_wheels_of_pip_are_searched_for_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_library(tmp_path / "nvidia/cu99/lib/libcnnresone.so.3", "libcnnresone.so.3")
    two = make_library(tmp_path / "tensorrt_libs/libcnnrestwo.so.9", "libcnnrestwo.so.9", one)
    three = make_library(tmp_path / "elsewhere/three.so", "three.so", two)
    absent = make_library(tmp_path / "gone.so", "libcnnresgone.so.1")
    four = make_library(tmp_path / "elsewhere/four.so", "four.so", absent)
    assert missing_libraries(three) == ("libcnnrestwo.so.9",)
    monkeypatch.syspath_prepend(tmp_path)
    assert missing_libraries(three) == ()
    assert load_library("libcnnresone.so.3")
    assert missing_libraries(four) == ("libcnnresgone.so.1",)


@linux
@compiled
def test_a_version_may_follow_the_name_in_a_folder_of_its_own(tmp_path: Path) -> None:
    runtime = make_library(tmp_path / "libcudart.so.98.1.2", "libcudart.so.98")
    library = make_library(tmp_path / "plug_in.so", "plug_in.so", runtime)
    assert cuda_of_library(library) == 98
    assert cuda_of_library(runtime) is None
    assert missing_libraries(library) == ("libcudart.so.98",)
    assert missing_libraries(library, [tmp_path]) == ()


@linux
@compiled
def test_the_versions_of_loaded_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "_KERNELS", ("libcnnreskernels", "libcnnresothers"))
    names = ["libcnnreskernels.so.9", "libcnnresothers.so.1", "libc.so.6"]
    assert loaded_versions(names) == {}
    for name, version in (("kernels", "9.14.0"), ("others", "1"), ("unwanted", "2.1")):
        file = make_library(tmp_path / "a b" / f"libcnnres{name}.so.{version}", f"{name}.so")
        link = tmp_path / f"{name}.so"
        link.symlink_to(file)
        assert load_library(str(link))
    assert loaded_versions(names) == {"libcnnreskernels": "9.14.0", "libcnnresothers": "1"}
    assert loaded_versions(names[1:]) == {"libcnnresothers": "1"}
    assert loaded_versions([]) == {}


def test_the_version_of_cuda_in_names_of_packages() -> None:
    assert cuda_of_packages({"python": "3.11", "tensorrt-rtx-cu12": "1.7"}) == 12
    assert cuda_of_packages({"tensorrt": "10.3"}) is None


@pytest.mark.parametrize(
    ("needed", "driver", "works"),
    [(12, "12.4", True), (13, "12.9", False), (12, "13.1", True), (13, "13.0", True),
     (None, "12.4", True), (11, "12.0", True), (14, "13.9", False)],
)  # fmt: skip
def test_majors_of_driver_and_library(needed: int | None, driver: str, works: bool) -> None:
    gpu = Gpu(0, "", "GPU", 86, 0, "550.1", driver)
    if works:
        check_driver(gpu, needed, "it", "pip install another")
        return
    with pytest.raises(BackendUnavailableError) as caught:
        check_driver(gpu, needed, "it", "pip install another")
    assert f"it needs CUDA {needed}, but driver 550.1 supports CUDA up to {driver}" in str(caught)
    assert caught.value.remedy.startswith("pip install another, or update the driver")
    assert ("to 580 or newer" in caught.value.remedy) == (needed == 13)
