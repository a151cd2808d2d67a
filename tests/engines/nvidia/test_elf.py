import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnnres_infer.engines.nvidia.elf import needed_libraries
from cnnres_infer.engines.nvidia.libraries import missing_libraries

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ELF is Linux's")


def test_names_are_those_that_the_linker_wrote() -> None:
    (library,) = Path(np.__file__).parent.rglob("_multiarray_umath*.so")
    names = needed_libraries(library)
    assert "libc.so.6" in names
    assert missing_libraries(library) == ()
    if shutil.which("readelf"):
        listed = subprocess.run(
            ["readelf", "-d", library], capture_output=True, text=True, check=True
        ).stdout
        lines = [line for line in listed.splitlines() if "(NEEDED)" in line]
        assert list(names) == [line.split("[")[1].rstrip("]") for line in lines]


def test_a_library_that_is_not_there_is_named(tmp_path: Path) -> None:
    (library,) = Path(np.__file__).parent.rglob("_multiarray_umath*.so")
    path = tmp_path / "altered.so"
    path.write_bytes(library.read_bytes().replace(b"libc.so.6\0", b"libx.so.6\0"))
    assert missing_libraries(path) == ("libx.so.6",)


@pytest.mark.parametrize(
    "content", [b"", b"MZ", b"\x7fELF\x01\x01", b"\x7fELF\x02\x01" + b"\0" * 60]
)
def test_other_files_need_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert needed_libraries(path) == ()
