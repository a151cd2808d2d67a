"""What the user's cache holds, and whether it is still of use."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.engines import openvino
from cnnres_infer.engines.onnxruntime import gpu as ort_gpu
from cnnres_infer.engines.tensorrt import store as plans
from cnnres_infer.engines.tensorrt.plan import staleness
from cnnres_infer.errors import OutputError
from cnnres_infer.host.cache import cache_folder
from cnnres_infer.selection import autotune as speed
from cnnres_infer.verification import self_check

if TYPE_CHECKING:
    from rich.console import Console

# Only these are ever removed: the cache's folder is the user's to choose.
FOLDERS = (plans.FOLDER, ort_gpu.FOLDER, openvino.FOLDER, speed.FOLDER, self_check.FOLDER)


def describe(bundle: Path | None = None) -> dict[str, Any]:
    """List the cache: every plan and whether it would be used, and the size of the rest.

    Parameters
    ----------
    bundle
        The bundle whose plans are valid; by default the built-in one.

    Raises
    ------
    OutputError
        If the cache cannot be used.
    BundleError
        If the bundle cannot be opened.
    """
    hashes = set(Bundle.open(bundle).sha256.values())
    entries = []
    for entry in plans.PlanStore(_folder(plans.FOLDER)).entries():
        reason = staleness(entry.key)
        if entry.plan() is None:
            reason = "damaged"
        elif entry.key.onnx_sha256 not in hashes:
            reason = "made of a model that is not in this bundle"
        entries.append(
            {
                "path": str(entry.path),
                "backend": entry.key.backend,
                "precision": entry.key.precision,
                "sm": entry.key.sm,
                "batch": entry.key.batch,
                "bytes": entry.nbytes,
                "state": "stale" if reason else "valid",
                "reason": reason,
            }
        )
    folders = {name: _files(_folder(name)) for name in FOLDERS}
    return {
        "folder": str(_folder()),
        "plans": entries,
        "folders": {
            name: {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
            for name, files in folders.items()
        },
    }


def clear() -> dict[str, Any]:
    """Remove all that this package put into the cache.

    Raises
    ------
    OutputError
        If it cannot be removed.
    """
    count = nbytes = 0
    for name in FOLDERS:
        folder = _folder(name)
        files = _files(folder)
        count, nbytes = count + len(files), nbytes + sum(path.stat().st_size for path in files)
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be removed ({error.strerror})") from error
    return {"folder": str(_folder()), "files": count, "bytes": nbytes}


def path() -> dict[str, Any]:
    """Where the cache is.

    Raises
    ------
    OutputError
        If it cannot be used.
    """
    return {"folder": str(_folder())}


def print_contents(entry: dict[str, Any], console: "Console") -> None:
    """Print what `describe`, `clear` or `path` returned."""
    if "plans" not in entry:
        removed = f"removed {_size(entry)} from " if "files" in entry else ""
        console.print(f"{removed}{entry['folder']}", markup=False)
        return
    console.print(entry["folder"], markup=False)
    for plan in entry["plans"]:
        state = f"{plan['state']}: {plan['reason']}" if plan["reason"] else plan["state"]
        console.print(
            f"  {Path(plan['path']).name}, batch {plan['batch']}, {plan['bytes'] / 1e6:.1f} MB, "
            f"{state}",
            markup=False,
        )
    for name, folder in entry["folders"].items():
        console.print(f"  {name}/: {_size(folder)}", markup=False)


def _folder(*parts: str) -> Path:
    try:
        return cache_folder(*parts)
    except OSError as error:
        raise OutputError(f"the cache cannot be used: {error}") from error


def _size(entry: dict[str, Any]) -> str:
    return f"{entry['files']} files, {entry['bytes'] / 1e6:.1f} MB"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
