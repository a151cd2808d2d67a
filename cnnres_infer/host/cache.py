"""The user's own folder where this package keeps what it can make again."""

import os
import sys
from pathlib import Path

FOLDER = "CNNRES_INFER_CACHE"
_NAME = "cnnres-infer"
_WRITABLE_BY_OTHERS = 0o022


def cache_folder(*parts: str) -> Path:
    """A folder in the user's cache, made with mode 0700 where it is not there yet.

    The cache is ``$CNNRES_INFER_CACHE``, else ``cnnres-infer`` in the
    system's usual place: ``$XDG_CACHE_HOME`` or ``~/.cache``,
    ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows.

    Parameters
    ----------
    parts
        Names of the folders in it, each inside the one before.

    Raises
    ------
    OSError
        If it cannot be made; or if others could write to it, since what lies
        in it is trusted.
    """
    folder = _root()
    _make_private(folder)
    for part in parts:
        folder /= part
        _make_private(folder)
    return folder


def _root() -> Path:
    if own := os.environ.get(FOLDER):
        return Path(own)
    if sys.platform == "win32":
        usual = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        usual = Path.home() / "Library" / "Caches"
    else:
        usual = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(usual) / _NAME


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform == "win32":
        return
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & _WRITABLE_BY_OTHERS:
        raise PermissionError(
            f"{folder} is not this user's alone: chmod 700 it, or set ${FOLDER} to another folder"
        )
