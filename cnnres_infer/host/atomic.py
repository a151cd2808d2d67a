"""Writing files completely or not at all, whenever the process ends."""

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

# Linux can write a file that has no name yet, so that a killed process leaves
# nothing; elsewhere it has one, and what was left is removed by the next run.
_DESCRIPTORS = Path("/proc/self/fd")
_NAMELESS = getattr(os, "O_TMPFILE", 0) if _DESCRIPTORS.is_dir() else 0
_UNFINISHED = ".cnnres-part"
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)

# Held while outputs are being written: who wants to end the process waits for it.
WRITING = threading.Lock()


def check_free(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuse paths that stand already, before any work is done for them.

    Raises
    ------
    OutputExistsError
        If one stands and `overwrite` is False.
    OutputError
        If one cannot be a path here.
    """
    for path in paths:
        try:
            standing = os.path.lexists(path)
            if not standing:
                os.lstat(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise _cannot_write(path.parent, error) from error
        if standing and not overwrite:
            raise OutputExistsError(path)


def write_all(
    contents: Mapping[Path, bytes],
    overwrite: bool = False,
    former: Iterable[Path] = (),
    private: Collection[Path] = (),
) -> None:
    """Write files, all of them or none, in their order: where the last stands, all do.

    Where an error ends it, what is new is removed again and what `former`
    names is back. A file that was replaced without being named there is old
    or new, never missing or cut short. Where the process is killed among
    several files, `unfinished` finds the last.

    Parameters
    ----------
    contents
        The content of each path. Missing folders are made.
    overwrite
        Whether what stands may be replaced.
    former
        What a former run may have left and is to go, with `overwrite` only.
    private
        Which of the files their owner alone may read.

    Raises
    ------
    OutputExistsError
        If a path stands and `overwrite` is False, also when another process
        made it in the meantime.
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
            # The last is another process's.
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
        # All is written; what cannot go now goes with the next run.
        with suppress(OSError):
            hidden.unlink(missing_ok=True)


def unfinished(paths: Iterable[Path]) -> list[Path]:
    """Find the hidden files that writers of these paths left, or are at work on."""
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
def exclusive(folder: Path, paths: Iterable[Path]) -> Iterator[None]:
    """Hold a folder against other processes that write into it this way; it is made.

    Afterwards, removes what killed ones left unfinished of these paths. Where
    the file system knows no locks, this does nothing, and whoever commits
    first wins.

    Raises
    ------
    OutputError
        If the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    descriptor = _locked(folder)
    try:
        yield
        if descriptor is not None:
            for hidden in unfinished(paths):
                hidden.unlink(missing_ok=True)
    finally:
        if descriptor is not None:
            os.close(descriptor)


class _Staged:
    """Content on the disk that has no name yet, or a hidden one."""

    def __init__(self, path: Path, mode: int) -> None:
        self._path = path
        self._temporary: Path | None = None
        try:
            if not _NAMELESS:
                raise OSError
            self._descriptor = os.open(path.parent, _NAMELESS | os.O_WRONLY, mode)
        except OSError:
            # Not every file system can; where the folder is at fault, this fails as well.
            self._temporary = _hidden(path)
            self._descriptor = os.open(self._temporary, _NEW, mode)

    def fill(self, content: bytes) -> None:
        with open(self._descriptor, "wb", closefd=False) as file:
            file.write(content)

    def name_it(self) -> Path:
        """Give it a hidden name, by which a killed writer is known."""
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
    # Of one length: a long name with more to it would be too long.
    return f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}."


def _hidden(path: Path) -> Path:
    return path.parent / f"{_prefix(path)}{secrets.token_hex(8)}{_UNFINISHED}"


def _set_aside(path: Path, aside: dict[Path, Path]) -> None:
    """Hide a file that is to go, and note where it is."""
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    hidden = _hidden(path)
    path.rename(hidden)
    aside[path] = hidden


def _locked(folder: Path) -> int | None:
    """Lock a folder, without a file in it; None where the system cannot (Windows)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        wait_for(descriptor)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _cannot_write(folder: Path, error: OSError | ValueError) -> OutputError:
    reason = error.strerror if isinstance(error, OSError) else error
    return OutputError(f"{folder}: cannot be written ({reason}); name another folder")


def _reserve(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise OutputExistsError(path) from None
