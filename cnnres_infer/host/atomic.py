"""Writing files completely or not at all, even if the process is killed."""

import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cnnres_infer.errors import CnnresError, OutputError, OutputExistsError
from cnnres_infer.host.lock import wait_for

# Linux can write to a file that has no name yet, so a killed process leaves nothing
# behind. Elsewhere the file has a hidden name, and the next run removes leftovers.
_DESCRIPTORS = Path("/proc/self/fd")
_NAMELESS = getattr(os, "O_TMPFILE", 0) if _DESCRIPTORS.is_dir() else 0
_UNFINISHED = ".cnnres-part"
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)

# Held while outputs are being written; acquire it before ending the process. A thread that
# has it may write itself.
WRITING = threading.RLock()

# Who uses this module holds the lock of a folder only for as long as writing takes.
_PATIENCE_S = 30.0


class FolderLockedError(OutputError):
    """A folder that another process has locked for longer than writing takes."""


def check_free(paths: Iterable[Path], overwrite: bool) -> None:
    """Raise if a path already exists, before any work is done for it.

    Parameters
    ----------
    paths
        The files that will be written.
    overwrite
        Whether existing files are allowed.

    Raises
    ------
    OutputExistsError
        If a path exists and `overwrite` is False.
    OutputError
        If a path is not valid on this system.
    """
    for path in paths:
        try:
            exists = os.path.lexists(path)
            if not exists:
                os.lstat(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise _cannot_write(path.parent, error) from error
        if exists and not overwrite:
            raise OutputExistsError(path)


def write_all(
    contents: Mapping[Path, bytes],
    overwrite: bool = False,
    former: Iterable[Path] = (),
    private: Collection[Path] = (),
) -> None:
    """Write all of the files or none, in order: once the last one exists, all do.

    After an error, new files are removed and the files in `former` restored.
    A file that was overwritten without being listed there has either its old
    or its new content; it is never missing or truncated. If the process is
    killed between two of several files, `unfinished` finds the last one.

    Parameters
    ----------
    contents
        The content of each path. Missing folders are created.
    overwrite
        Whether existing files may be replaced.
    former
        Files of an earlier run to remove, with `overwrite` only.
    private
        The files that only their owner may read.

    Raises
    ------
    OutputExistsError
        If a path exists and `overwrite` is False, even if another process
        created it in the meantime.
    OutputError
        If a path cannot be written.
    """
    with WRITING:
        _write_all(contents, overwrite, former, private)


def _write_all(
    contents: Mapping[Path, bytes],
    overwrite: bool,
    former: Iterable[Path],
    private: Collection[Path],
) -> None:
    check_free(contents, overwrite)
    staged: dict[Path, _Staged] = {}
    aside: dict[Path, Path] = {}
    made: list[Path] = []
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            staged[path] = _Staged(path, 0o600 if path in private else 0o666)
            staged[path].fill(content)
        if len(staged) > 1:
            staged[path].name_it()
        for path in reversed(list(former) if overwrite else []):
            _set_aside(path, aside)
        for path, file in staged.items():
            if not (overwrite and os.path.lexists(path)):
                made.append(path)
            file.commit(overwrite)
    except BaseException as error:
        if isinstance(error, OutputExistsError):
            # The last file belongs to another process.
            del made[-1:]
        for path in reversed(made):
            path.unlink(missing_ok=True)
        for path, hidden in reversed(aside.items()):
            hidden.replace(path)
        if isinstance(error, OSError) and not isinstance(error, CnnresError):
            raise _cannot_write(next(iter(contents)).parent, error) from error
        raise
    finally:
        for file in staged.values():
            file.close()
    for hidden in aside.values():
        # Everything is written; the next run removes what cannot be removed now.
        with suppress(OSError):
            hidden.unlink(missing_ok=True)


def unfinished(paths: Iterable[Path]) -> list[Path]:
    """Find the hidden files of writers of these paths, killed or still running."""
    prefixes = {path: _prefix(path) for path in paths}
    return [
        hidden
        for folder in {path.parent for path in prefixes}
        for hidden in folder.glob(f".*{_UNFINISHED}")
        if any(
            hidden.name.startswith(prefix)
            for path, prefix in prefixes.items()
            if path.parent == folder
        )
    ]


@contextmanager
def exclusive(folder: Path, paths: Iterable[Path], patience: float = _PATIENCE_S) -> Iterator[None]:
    """Create a folder and lock it against other processes that use this function.

    On leaving, removes the unfinished files of killed writers of these paths.
    On file systems without locks the folder is only created, and whoever
    commits first wins.

    Parameters
    ----------
    folder
        The folder to lock.
    paths
        The files that will be written.
    patience
        Seconds to wait for another process that has locked it.

    Raises
    ------
    FolderLockedError
        If the other process does not unlock it.
    OutputError
        If the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _cannot_write(folder, error) from error
    descriptor = _locked(folder, patience)
    try:
        yield
        if descriptor is not None:
            for hidden in unfinished(paths):
                hidden.unlink(missing_ok=True)
    finally:
        if descriptor is not None:
            os.close(descriptor)


class _Staged:
    """A file that is not visible yet: it has no name or a hidden one."""

    def __init__(self, path: Path, mode: int) -> None:
        self._path = path
        self._temporary: Path | None = None
        try:
            if not _NAMELESS:
                raise OSError
            self._descriptor = os.open(path.parent, _NAMELESS | os.O_WRONLY, mode)
        except OSError:
            # Not every file system supports this; if the folder is the problem, this fails too.
            self._temporary = _hidden(path)
            self._descriptor = os.open(self._temporary, _NEW, mode)

    def fill(self, content: bytes) -> None:
        with open(self._descriptor, "wb", closefd=False) as file:
            file.write(content)

    def name_it(self) -> Path:
        """Give the file a hidden name, so that it is found if this process is killed."""
        if self._temporary is None:
            self._temporary = _hidden(self._path)
            self._link(self._temporary)
        return self._temporary

    def commit(self, overwrite: bool) -> None:
        if overwrite:
            self.name_it().replace(self._path)
        elif self._temporary is None:
            self._link(self._path)
        else:
            try:
                os.link(self._temporary, self._path)
            except FileExistsError:
                raise OutputExistsError(self._path) from None
            except OSError:
                # A file system without hard links: reserve the name, then replace.
                _reserve(self._path)
                self._temporary.replace(self._path)

    def close(self) -> None:
        os.close(self._descriptor)
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def _link(self, target: Path) -> None:
        folder = os.open(_DESCRIPTORS, os.O_RDONLY)
        try:
            os.link(str(self._descriptor), target, src_dir_fd=folder)
        except FileExistsError:
            raise OutputExistsError(target) from None
        finally:
            os.close(folder)


def _prefix(path: Path) -> str:
    # A hash, since appending to a long name could make it too long.
    return f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}."


def _hidden(path: Path) -> Path:
    return path.parent / f"{_prefix(path)}{secrets.token_hex(8)}{_UNFINISHED}"


def _set_aside(path: Path, aside: dict[Path, Path]) -> None:
    """Hide a file that is to be removed, and record its hidden name in `aside`."""
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    hidden = _hidden(path)
    path.rename(hidden)
    aside[path] = hidden


def _locked(folder: Path, patience: float) -> int | None:
    """Lock a folder without creating a lock file; None if the system cannot (Windows)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        wait_for(descriptor, patience)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, TimeoutError):
            raise FolderLockedError(
                f"{folder}: {error}; end that process, or choose another folder"
            ) from error
        if isinstance(error, OSError):
            return None
        raise
    return descriptor


def _cannot_write(folder: Path, error: OSError | ValueError) -> OutputError:
    reason = error.strerror if isinstance(error, OSError) else error
    return OutputError(f"{folder}: cannot be written ({reason}); choose another folder")


def _reserve(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise OutputExistsError(path) from None
