"""The cache of networks that a runtime has compiled, each with a sidecar that pins its bytes.

A compiled network is code that runs unseen: a damaged or swapped file could find
other lesions. So it is looked up by everything that it was made from, and handed
to the runtime only if its bytes are those that were stored.
"""

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnres_infer.host.atomic import write_all
from cnnres_infer.host.files import read_regular
from cnnres_infer.host.result_cache import ResultCache

_MAX_BYTES = 1 << 30
_MAX_SIDECAR_BYTES = 1 << 16


@dataclass(frozen=True)
class Compiled:
    """A compiled network.

    Attributes
    ----------
    content
        Its bytes.
    sha256
        Their SHA-256, in hex.
    """

    content: bytes
    sha256: str


class CompiledCache:
    """Compiled networks in a folder of the user's cache; one that cannot be used counts as empty.

    Parameters
    ----------
    folder
        Name of the folder in the user's cache.
    """

    def __init__(self, folder: str) -> None:
        self._hashes = ResultCache(folder)

    def get(self, conditions: dict[str, Any]) -> Compiled | None:
        """Find the network that was compiled under these conditions; None without an intact one.

        Parameters
        ----------
        conditions
            All that the network was made from: anything that JSON can represent.
        """
        stored = self._hashes.get(conditions)
        if stored is None:
            return None
        try:
            content = read_regular(self._path(conditions), _MAX_BYTES)
        except OSError:
            return None
        found = Compiled(content, hashlib.sha256(content).hexdigest())
        return found if found.sha256 == stored else None

    def put(self, conditions: dict[str, Any], content: bytes) -> Compiled | None:
        """Store a network, replacing an earlier one; None if the cache cannot be written."""
        compiled = Compiled(content, hashlib.sha256(content).hexdigest())
        try:
            write_all({self._path(conditions): content}, overwrite=True)
        except OSError:
            return None
        unsaved = self._hashes.put(conditions, compiled.sha256)
        return None if unsaved else compiled

    def _path(self, conditions: dict[str, Any]) -> Path:
        return self._hashes.path(conditions).with_suffix(".blob")


class SealedFolder:
    """Files that a runtime compiles and reads itself, of which it finds only those it left.

    Parameters
    ----------
    path
        A folder of the runtime's own in the user's cache; its seal is beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seal = path.with_name(f"{path.name}.json")

    def remove_strangers(self) -> None:
        """Remove what is not as `seal` found it, before the runtime looks.

        Raises
        ------
        OSError
            If something cannot be removed: the folder must not be used.
        """
        try:
            sealed = json.loads(read_regular(self._seal, _MAX_SIDECAR_BYTES))
        except (OSError, ValueError, RecursionError):
            sealed = {}
        for path in list(self.path.iterdir()):
            digest = _hash(path)
            if not (digest and isinstance(sealed, dict) and sealed.get(path.name) == digest):
                _remove(path)

    def seal(self) -> None:
        """Note what the runtime has left; what cannot be noted is made again next time."""
        with suppress(OSError):
            hashes = {path.name: _hash(path) for path in self.path.iterdir()}
            content = json.dumps(hashes, indent=2).encode()
            write_all({self._seal: content}, overwrite=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        # Another process may be doing the same.
        path.unlink(missing_ok=True)


def _hash(path: Path) -> str:
    """SHA-256 of a file; empty for what is no regular file."""
    try:
        return hashlib.sha256(read_regular(path, _MAX_BYTES)).hexdigest()
    except OSError:
        return ""
