"""The user's cache folder, which holds only what this package can recreate."""

import os
import sys
from pathlib import Path

FOLDER = "CNNRES_INFER_CACHE"
_NAME = "cnnres-infer"
_WRITABLE_BY_OTHERS = 0o022


def cache_folder(*parts: str) -> Path:
    """Return a folder in the user's cache, creating it with mode 0700 if needed.

    The cache is ``$CNNRES_INFER_CACHE``, or else ``cnnres-infer`` in the
    system's usual place: ``$XDG_CACHE_HOME`` or ``~/.cache``,
    ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows.

    Parameters
    ----------
    parts
        Names of nested folders in the cache, outermost first; none for the
        cache itself.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OSError
        If the folder cannot be created, if the user has no home to hold it, or if
        other users could write to it, since its contents are trusted.
    """
    folder = _root()
    _make_private(folder)
    for part in parts:
        folder /= part
        _make_private(folder)
    return folder


def _root() -> Path:
    if own := os.environ.get(FOLDER):
        return Path(own).absolute()
    if sys.platform == "win32":
        usual = _named("LOCALAPPDATA") or _home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        usual = _home() / "Library" / "Caches"
    else:
        usual = _named("XDG_CACHE_HOME") or _home() / ".cache"
    return usual / _NAME


def _named(variable: str) -> Path | None:
    """Folder in an environment variable; a relative one is ignored, as XDG demands."""
    folder = Path(os.environ.get(variable, ""))
    return folder if folder.is_absolute() else None


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        # In containers, users without a name or a home are common.
        raise OSError(f"this user has no home folder: set ${FOLDER} to a folder") from error


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform == "win32":
        return
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & _WRITABLE_BY_OTHERS:
        raise PermissionError(
            f"{folder} is owned or writable by others: chmod 700 it, "
            f"or set ${FOLDER} to another folder"
        )
