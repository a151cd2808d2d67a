"""NVIDIA's libraries: loading those that pip installs, and which version of CUDA they need.

The wheels of CUDA, cuDNN and TensorRT put their libraries into folders of
site-packages that the loader does not search, so whoever needs one has to load
it by its path first. A library that is loaded is then found by its name.
"""

import ctypes
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cnnres_infer.engines.nvidia.device import Gpu
from cnnres_infer.engines.nvidia.elf import needed_libraries
from cnnres_infer.errors import BackendUnavailableError

# Below site-packages: CUDA 12 and cuDNN, CUDA 13, TensorRT.
_FOLDERS = ("nvidia/*/lib", "tensorrt_libs", "tensorrt_rtx_libs")
_CUDA_RUNTIME = re.compile(r"libcudart\.so\.(\d+)$")
# Results may depend on their versions.
_KERNELS = ("libcublas", "libcublasLt", "libcudnn", "libnvinfer", "libtensorrt_rtx")
_MAPPED = Path("/proc/self/maps")
# First driver for each major version of CUDA.
_DRIVERS = {12: "525", 13: "580"}


def load_library(name: str, folders: Iterable[Path] = ()) -> bool:
    """Load a library and what it needs, from the loader's path or from the wheels of pip.

    Always true except on Linux, where only wheels need this.

    Parameters
    ----------
    name
        Its name, such as ``"libcudnn.so.9"``.
    folders
        Folders to search as well; there a version may follow the name.

    Returns
    -------
    bool
        Whether it is loaded.
    """
    if not sys.platform.startswith("linux") or _loads(name):
        return True
    return any(_load_file(path, folders) for path in _candidates(name, folders))


def missing_libraries(path: Path, folders: Iterable[Path] = ()) -> tuple[str, ...]:
    """Names of the libraries that a shared library needs but that cannot be loaded.

    Always empty except on Linux. The libraries that are found are loaded.
    """
    if not sys.platform.startswith("linux"):
        return ()
    return tuple(name for name in needed_libraries(path) if not load_library(name, folders))


def loaded_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those libraries with kernels that are loaded, from the names of their files.

    A system has these in full, such as ``libcudnn.so.9.14.0``. In a wheel, it is just
    ``libcudnn.so.9``, but the wheel itself has a version. Always empty except on Linux.

    Parameters
    ----------
    names
        Names of libraries, such as ``"libcudnn.so.9"``.
    """
    wanted = {stem for name in names if (stem := name.partition(".so")[0]) in _KERNELS}
    try:
        mapped = {Path(line[line.find("/") :]).name for line in _MAPPED.read_text().splitlines()}
    except OSError:
        return {}
    files = (file.partition(".so.") for file in sorted(mapped))
    return {stem: version for stem, _, version in files if stem in wanted}


def cuda_of_library(path: Path) -> int | None:
    """Major version of CUDA that a library links to; None if it links to none."""
    found = (_CUDA_RUNTIME.search(name) for name in needed_libraries(path))
    return next((int(each[1]) for each in found if each), None)


def cuda_of_packages(versions: Mapping[str, str]) -> int | None:
    """Major version of CUDA in the suffix of an installed package, such as ``-cu12``."""
    suffixes = (re.search(r"-cu(\d+)$", name) for name in versions)
    return next((int(each[1]) for each in suffixes if each), None)


def check_driver(gpu: Gpu, needed: int | None, what: str, remedy: str) -> None:
    """Refuse what was made for a newer major version of CUDA than the driver supports.

    An older one always works, and so does a newer minor version.

    Parameters
    ----------
    needed
        Major version of CUDA that it was made for; None if unknown.
    what
        Its name and version, for the message.
    remedy
        The command that installs one for the driver's version of CUDA; empty if there
        is none.

    Raises
    ------
    BackendUnavailableError
        If the driver is too old.
    """
    if needed is None or needed <= gpu.cuda_major:
        return
    driver = f"driver {gpu.driver}" if gpu.driver else "the driver"
    newer = f"to {_DRIVERS[needed]} or newer" if needed in _DRIVERS else "of the GPU"
    update = f"update the driver {newer}"
    raise BackendUnavailableError(
        f"{what} needs CUDA {needed}, but {driver} supports CUDA up to {gpu.cuda}",
        f"{remedy}, or {update}" if remedy else update,
    )


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _load_file(path: Path, folders: Iterable[Path]) -> bool:
    for needed in needed_libraries(path):
        load_library(needed, folders)
    return _loads(str(path))


def _candidates(name: str, folders: Iterable[Path]) -> Iterator[Path]:
    for site in map(Path, sys.path):
        for pattern in _FOLDERS:
            yield from site.glob(f"{pattern}/{name}")
    for folder in folders:
        yield from sorted(folder.glob(f"{name}*"))
