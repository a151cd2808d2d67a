"""Writing files completely or not at all."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from cnnres_infer.errors import CnnresError, OutputError, OutputExistsError


def check_free(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuse paths that stand already, before any work is done for them.

    Raises
    ------
    OutputExistsError
        If one stands and `overwrite` is False.
    """
    for path in paths:
        if path.exists() and not overwrite:
            raise OutputExistsError(path)


def write_all(
    contents: Mapping[Path, bytes], overwrite: bool = False, former: Iterable[Path] = ()
) -> None:
    """Write files, all of them or none, in their order: where the last stands, all do.

    Parameters
    ----------
    contents
        The content of each path. Missing folders are made.
    overwrite
        Whether what stands may be replaced.
    former
        What a former run may have left and is to go, with `overwrite` only.

    Raises
    ------
    OutputExistsError
        If a path stands and `overwrite` is False, also when another process
        made it in the meantime.
    OutputError
        If a path cannot be written.
    """
    check_free(contents, overwrite)
    staged: dict[Path, Path] = {}
    written: list[Path] = []
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
            os.close(handle)
            staged[path] = Path(name)
            staged[path].write_bytes(content)
            staged[path].chmod(0o666 & ~_umask())
        for path in reversed(list(former) if overwrite else []):
            path.unlink(missing_ok=True)
        for path, temporary in staged.items():
            _commit(temporary, path, overwrite)
            written.append(path)
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, CnnresError):
            folder = next(iter(contents)).parent
            raise OutputError(
                f"{folder}: cannot be written ({error.strerror}); name another folder"
            ) from error
        raise
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


def _commit(temporary: Path, path: Path, overwrite: bool) -> None:
    if not overwrite:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise OutputExistsError(path) from None
        except OSError:
            # A file system without hard links: reserve the name, then replace.
            _reserve(path)
        else:
            return
    temporary.replace(path)


def _reserve(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise OutputExistsError(path) from None


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
