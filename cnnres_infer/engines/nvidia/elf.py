"""The libraries that a shared library needs, read from its file without loading it."""

import struct
from pathlib import Path

from cnnres_infer.host.files import open_regular

_MAGIC = b"\x7fELF\x02\x01"
_SECTION_DYNAMIC = 6
_TAG_NEEDED = 1


def needed_libraries(path: Path) -> tuple[str, ...]:
    """Names of the libraries that a shared library links to; empty unless it is a 64-bit ELF file.

    References
    ----------
    Tool Interface Standard, "Executable and Linking Format", version 1.2;
    System V ABI, AMD64 supplement, for the 64-bit layouts.
    """
    with open_regular(path) as file:
        header = file.read(64)
        if header[:6] != _MAGIC or len(header) < 64:
            return ()
        (offset,) = struct.unpack_from("<Q", header, 40)
        size, count = struct.unpack_from("<HH", header, 58)
        file.seek(offset)
        table = file.read(size * count)
        sections = [struct.unpack_from("<IIQQQQII", table, size * i) for i in range(count)]
        for _, kind, _, _, start, length, link, _ in sections:
            if kind == _SECTION_DYNAMIC:
                file.seek(start)
                entries = list(struct.iter_unpack("<qQ", file.read(length)))
                *_, names_start, names_length, _, _ = sections[link]
                file.seek(names_start)
                names = file.read(names_length)
                return tuple(
                    names[at : names.index(b"\0", at)].decode()
                    for tag, at in entries
                    if tag == _TAG_NEEDED
                )
    return ()
