"""The cache of TensorRT plans, each with a sidecar that lists the inputs of its build.

A plan is executable code, and identical builds differ in their bytes. So a plan
is looked up by the inputs of its build, never by its content, and is only loaded
from the user's own cache. The hash in the sidecar detects truncated files; it is no
protection against someone who can write to the cache.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Self

from cnnres_infer.host.atomic import write_all
from cnnres_infer.host.digest import json_digest
from cnnres_infer.host.files import read_regular
from cnnres_infer.host.lock import locked

FORMAT = 2
FOLDER = "plans"
ANY = "any"
_MAX_SIDECAR_BYTES = 1 << 20
_LABELS = {
    "version": "version of TensorRT",
    "onnx_sha256": "model",
    "sm": "compute capability",
    "gpu": "GPU",
    "driver": "driver",
    "cuda": "CUDA",
    "system": "operating system",
    "architecture": "processor architecture",
    "flags": "build flags",
    "sides": "sizes of images",
}


@dataclass(frozen=True)
class PlanKey:
    """All inputs of a build.

    Attributes
    ----------
    backend, version
        The backend that built it, and its full version with that of CUDA, such as
        ``"10.16.1.11+cu13"``.
    onnx_sha256
        Hash of the variant.
    precision, batch, flags, sides
        The request: precision, batch range, build flags, and the heights and
        widths of images if there are several.
    sm, gpu, driver, cuda
        The device: compute capability, name with memory, and versions; ``"any"``
        if the plan does not depend on it.
    system, architecture
        Operating system and processor.
    """

    backend: str
    version: str
    onnx_sha256: str
    precision: str
    batch: str
    flags: str
    sm: str
    gpu: str
    driver: str
    cuda: str
    system: str
    architecture: str
    sides: str = ""

    @property
    def name(self) -> str:
        """File name without suffix, unique for each key."""
        inputs = {name: value for name, value in asdict(self).items() if name != "sides" or value}
        return f"{self.backend}-{self.precision}-sm{self.sm}-{json_digest(inputs)[:16]}"

    def differences(self, now: Self) -> list[str]:
        """Describe what differs from `now`, a key for the same backend, precision and batch."""
        return [
            f"{_LABELS[field.name]} was {_short(before)}, is {_short(after)}"
            for field in fields(self)
            if field.name in _LABELS
            and (before := getattr(self, field.name)) != (after := getattr(now, field.name))
        ]


@dataclass(frozen=True)
class Entry:
    """A plan in the cache.

    Attributes
    ----------
    path
        The plan; its sidecar has the suffix ``.json``.
    key
        The inputs of its build.
    nbytes
        Size in bytes.
    seconds
        Duration of the build.
    sha256
        SHA-256 of the plan.
    """

    path: Path
    key: PlanKey
    nbytes: int
    seconds: float
    sha256: str

    @classmethod
    def read(cls, sidecar: Path) -> Self | None:
        """Read a sidecar; None if it is damaged or has another format."""
        try:
            content = json.loads(read_regular(sidecar, _MAX_SIDECAR_BYTES))
            if content["format"] != FORMAT:
                return None
            return cls(
                sidecar.with_suffix(".plan"),
                PlanKey(**content["key"]),
                int(content["bytes"]),
                float(content["seconds"]),
                str(content["sha256"]),
            )
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None

    def plan(self) -> bytes | None:
        """Read the plan; None if it is damaged or missing."""
        try:
            content = read_regular(self.path, self.nbytes)
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == self.sha256 else None


@dataclass(frozen=True)
class Plan:
    """A plan that is ready to load.

    Attributes
    ----------
    content
        The serialized engine.
    path
        Its file.
    key
        The inputs of its build.
    seconds
        Duration of the build; 0 if the plan was cached.
    rebuilt
        Why an existing plan could not be used; empty if there was none.
    """

    content: bytes
    path: Path
    key: PlanKey
    seconds: float = 0.0
    rebuilt: str = ""


class PlanStore:
    """The plans in a folder.

    Parameters
    ----------
    folder
        A folder that only the user can write to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_or_build(
        self, key: PlanKey, build: Callable[[], bytes], refused: bytes | None = None
    ) -> Plan:
        """Find the plan for a key, or build it under a lock, so only one process builds it.

        Parameters
        ----------
        refused
            A plan that TensorRT did not accept, to be replaced if it is still there.
        """
        plan, reason = self.find(key, refused)
        if plan is not None:
            return plan
        with locked(self.folder / f"{key.name}.lock"):
            # Another process may have built it meanwhile.
            plan, _ = self.find(key, refused)
            if plan is not None:
                return plan
            started = time.perf_counter()
            content = build()
            seconds = time.perf_counter() - started
            return Plan(content, self.put(key, content, seconds), key, seconds, reason)

    def find(self, key: PlanKey, refused: bytes | None = None) -> tuple[Plan | None, str]:
        """Find the plan for a key, or say why the existing ones cannot be used."""
        sidecar = self.folder / f"{key.name}.json"
        entry = Entry.read(sidecar)
        if entry is not None and entry.key == key:
            content = entry.plan()
            if content is not None and content == refused:
                return None, f"TensorRT refused {entry.path.name}"
            if content is not None:
                return Plan(content, entry.path, key), ""
            return None, f"{entry.path.name} was damaged"
        return None, self._closest(key)

    def put(self, key: PlanKey, content: bytes, seconds: float) -> Path:
        """Write a plan and its sidecar; returns the path of the plan.

        Raises
        ------
        OutputError
            If the cache cannot be written.
        """
        path = self.folder / f"{key.name}.plan"
        sidecar = {
            "format": FORMAT,
            "key": asdict(key),
            "bytes": len(content),
            "seconds": round(seconds, 3),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        text = json.dumps(sidecar, indent=2)
        write_all({path: content, path.with_suffix(".json"): text.encode()}, overwrite=True)
        return path

    def entries(self) -> Iterator[Entry]:
        """All plans, sorted by name."""
        for sidecar in sorted(self.folder.glob("*.json")):
            entry = Entry.read(sidecar)
            if entry is not None:
                yield entry

    def newest_batch(self, key: PlanKey) -> str | None:
        """Batch range of the newest plan that otherwise matches `key`."""
        matching = [entry for entry in self.entries() if replace(entry.key, batch=key.batch) == key]
        newest = max(matching, key=lambda entry: entry.path.stat().st_mtime, default=None)
        return newest.key.batch if newest else None

    def _closest(self, key: PlanKey) -> str:
        """How the most similar plan for the same purpose differs; empty if there is none."""
        purpose = (key.backend, key.precision, key.batch)
        differences = [
            entry.key.differences(key)
            for entry in self.entries()
            if (entry.key.backend, entry.key.precision, entry.key.batch) == purpose
        ]
        closest: list[str] = min(differences, key=len, default=[])
        return ", ".join(closest)


def _short(value: str) -> str:
    return f"{value[:12]}..." if len(value) == 64 else value or "unknown"
