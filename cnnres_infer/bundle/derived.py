"""Files of a bundle that are made from others when they are first read.

``derived`` in ``model.json`` names, for each such file, the one it is made from and the
recipe (see `cnnres_infer.bundle.recipe`). Like any other file of the bundle, what was made
counts only if it has the SHA-256 that ``model.json`` states, so whoever sealed or signed
the bundle has sealed or signed it, too. It is kept in the user's cache, where it is found
by that hash and checked against it again each time.
"""

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnres_infer.bundle.manifest import MANIFEST
from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import BundleError
from cnnres_infer.host.atomic import write_all
from cnnres_infer.host.cache import cache_folder
from cnnres_infer.host.files import read_regular

FOLDER = "networks"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Derivation:
    """How a file of a bundle is made: the names of its source and of its recipe."""

    source: str
    recipe: str


def derivations(manifest: dict[str, Any], sha256: dict[str, str]) -> dict[str, Derivation]:
    """Read ``derived`` of a ``model.json``; empty without it.

    Parameters
    ----------
    manifest
        Content of ``model.json``.
    sha256
        The hash of each file.

    Raises
    ------
    BundleError
        If it is malformed, names files without a hash, or makes files of derived files.
    """
    try:
        found = {
            name: Derivation(str(entry["source"]), str(entry["recipe"]))
            for name, entry in manifest.get("derived", {}).items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise _malformed(repr(error)) from error
    for name, derivation in found.items():
        for part in (name, derivation.source, derivation.recipe):
            if not _SHA256.fullmatch(sha256.get(part, "")):
                raise _malformed(f"{part!r} has no hash")
        if found.keys() & {derivation.source, derivation.recipe}:
            raise _malformed(f"{name!r} is made of what is made itself")
    return found


def kept(sha256: str, max_bytes: int) -> bytes | None:
    """The file with this hash, if the user's cache has it and it is intact."""
    try:
        content = read_regular(_path(sha256), max_bytes)
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def keep(sha256: str, content: bytes) -> None:
    """Store a file in the user's cache; where that fails, it is made again next time."""
    try:
        write_all({_path(sha256): content}, overwrite=True)
    except OSError as error:
        _log.info("a network is made again at every start, since it cannot be kept: %s", error)


def _path(sha256: str) -> Path:
    return cache_folder(FOLDER) / f"{sha256}.onnx"


def _malformed(reason: str) -> BundleError:
    return BundleError(
        f"{MANIFEST}: 'derived' is malformed ({reason}); export the bundle again",
        code=ErrorCode.BUNDLE_MANIFEST,
    )
