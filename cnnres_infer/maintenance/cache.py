"""Listing and clearing the user's cache."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from cnnres_infer.bundle import derived
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.engines import BACKENDS, backend
from cnnres_infer.engines.tensorrt import store as plans
from cnnres_infer.engines.tensorrt.plan import staleness
from cnnres_infer.errors import OutputError
from cnnres_infer.host.cache import cache_folder
from cnnres_infer.selection import autotune as speed
from cnnres_infer.verification import self_check

# Only these folders are ever removed, since the cache may be any folder that the user chose.
_OF_BACKENDS = [folder for name in BACKENDS if (folder := backend(name).CACHE_FOLDER)]
FOLDERS = (*dict.fromkeys(_OF_BACKENDS), derived.FOLDER, speed.FOLDER, self_check.FOLDER)


@dataclass(frozen=True)
class CachedPlan:
    """A TensorRT engine in the cache.

    Attributes
    ----------
    path
        Path of its file.
    backend, precision, sm, batch
        See `cnnres_infer.engines.tensorrt.store.PlanKey`.
    bytes
        Size in bytes.
    state
        ``"valid"`` if it would be used here with the bundle, otherwise ``"stale"``.
    reason
        Why it is stale; empty if it is valid.
    """

    path: Path
    backend: str
    precision: str
    sm: str
    batch: str
    bytes: int
    state: str
    reason: str


@dataclass(frozen=True)
class FolderSize:
    """Number of files in a folder, and their total size in bytes."""

    files: int
    bytes: int

    @classmethod
    def of(cls, folder: Path) -> "FolderSize":
        """Measure a folder, including its subfolders."""
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        return cls(len(sizes), sum(sizes))


@dataclass(frozen=True)
class CacheReport:
    """The contents of the cache.

    Attributes
    ----------
    folder
        Its location.
    plans
        The TensorRT engines.
    folders
        The size of each folder in it, by name.
    """

    folder: Path
    plans: tuple[CachedPlan, ...]
    folders: dict[str, FolderSize]


@dataclass(frozen=True)
class ClearedReport:
    """Location of the cache, with the number and total size in bytes of the removed files."""

    folder: Path
    files: int
    bytes: int


@dataclass(frozen=True)
class PathReport:
    """Location of the cache."""

    folder: Path


def describe(bundle: Path | None = None) -> CacheReport:
    """List every engine in the cache, whether it would be used, and the size of each folder.

    Parameters
    ----------
    bundle
        The bundle whose engines are valid; None for the built-in one.

    Returns
    -------
    CacheReport
        The contents of the cache.

    Raises
    ------
    OutputError
        If the cache cannot be used.
    BundleError
        If the bundle cannot be opened.
    """
    hashes = set(Bundle.open(bundle).sha256.values())
    entries = plans.PlanStore(_folder(plans.FOLDER)).entries()
    return CacheReport(
        _folder(),
        tuple(_plan(entry, hashes) for entry in entries),
        {name: FolderSize.of(_folder(name)) for name in FOLDERS},
    )


def clear() -> ClearedReport:
    """Remove everything that this package stored in the cache.

    Returns
    -------
    ClearedReport
        What was removed.

    Raises
    ------
    OutputError
        If it cannot be removed.
    """
    removed = [_remove(_folder(name)) for name in FOLDERS]
    files, nbytes = sum(each.files for each in removed), sum(each.bytes for each in removed)
    return ClearedReport(_folder(), files, nbytes)


def path() -> PathReport:
    """Locate the cache.

    Returns
    -------
    PathReport
        Location of the cache.

    Raises
    ------
    OutputError
        If the cache cannot be used.
    """
    return PathReport(_folder())


def _plan(entry: plans.Entry, hashes: set[str]) -> CachedPlan:
    reason = staleness(entry.key)
    if entry.plan() is None:
        reason = "damaged"
    elif entry.key.onnx_sha256 not in hashes:
        reason = "made of a model that is not in this bundle"
    return CachedPlan(
        path=entry.path,
        backend=entry.key.backend,
        precision=entry.key.precision,
        sm=entry.key.sm,
        batch=entry.key.batch,
        bytes=entry.nbytes,
        state="stale" if reason else "valid",
        reason=reason,
    )


def _remove(folder: Path) -> FolderSize:
    size = FolderSize.of(folder)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be removed ({error.strerror})") from error
    return size


def _folder(*parts: str) -> Path:
    try:
        return cache_folder(*parts)
    except OSError as error:
        raise OutputError(f"the cache cannot be used: {error}") from error
