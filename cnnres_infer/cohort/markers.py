"""What is known on disk of cases: the sidecars of those done, and records of the others."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cnnres_infer.codes import ErrorCode
from cnnres_infer.cohort.case import CohortCase, Skip
from cnnres_infer.core.jsonable import dumps
from cnnres_infer.errors import VolumeError
from cnnres_infer.host.atomic import write_all
from cnnres_infer.host.deadline import check_time
from cnnres_infer.host.digest import json_digest
from cnnres_infer.host.files import open_regular, read_regular

# The program's own folder in the output, which BIDS tools leave alone.
STATE = ".cnnres"
_MAX_BYTES = 1 << 24
_CHUNK_BYTES = 1 << 20
_SUFFIXES = (".nii.gz", ".nii")
# Options that are not called as the arguments which they come from.
_SETTINGS = {"bundle_sha256": "`bundle`", "cnnres-infer": "the version of cnnres-infer"}


@dataclass(frozen=True)
class Fingerprint:
    """What a case was made from.

    Attributes
    ----------
    inputs
        For each role, the SHA-256 of its files, and ``[name, size, time, inode]`` of
        each, by which unchanged files are told without reading them.
    options
        Everything else that outputs depend on.
    """

    inputs: dict[str, dict[str, Any]]
    options: dict[str, Any]

    @classmethod
    def of(cls, case: CohortCase, options: dict[str, Any]) -> Self:
        """Hash the files of a case.

        Raises
        ------
        VolumeError
            If one cannot be read.
        """
        inputs = {role: _hashed(path) for role, path in case.inputs.items()}
        return cls(inputs, options)

    @property
    def key(self) -> str:
        """SHA-256 of all contents and options."""
        hashes = {role: entry["sha256"] for role, entry in self.inputs.items()}
        return json_digest({"inputs": hashes, "options": self.options})

    def to_json(self) -> dict[str, Any]:
        """The marker."""
        return {"key": self.key, "inputs": self.inputs, "options": self.options}

    def describes(self, case: CohortCase, options: dict[str, Any]) -> bool:
        """Whether a case is still what this was made from."""
        return not self.difference(case, options)

    def difference(self, case: CohortCase, options: dict[str, Any]) -> str:
        """How this was made differently from what a case is now; empty if it was not."""
        names = sorted(self.options.keys() | options.keys())
        changed = [each for each in names if self.options.get(each) != options.get(each)]
        if changed:
            named = (_SETTINGS.get(each, f"`{each}`") for each in changed)
            return f"made with other settings ({', '.join(named)})"
        return "" if self._has_inputs(case.inputs) else "made from other inputs"

    def _has_inputs(self, paths: dict[str, Path]) -> bool:
        if self.inputs.keys() != paths.keys():
            return False
        try:
            changed = [
                role for role in paths if not _are(self.inputs[role]["files"], _stat(paths[role]))
            ]
            return all(
                _hashed(paths[role])["sha256"] == self.inputs[role]["sha256"] for role in changed
            )
        except (KeyError, TypeError, VolumeError):
            return False


def _are(recorded: list[list[Any]], files: list[list[Any]]) -> bool:
    """Whether files are those recorded, by an earlier version without their inodes."""
    return len(recorded) == len(files) and all(
        then == now[: len(then)] for then, now in zip(recorded, files, strict=True)
    )


def _hashed(path: Path) -> dict[str, Any]:
    files = _stat(path)
    digest = hashlib.sha256()
    for each in _files(path):
        # The name as it is relative to the input, since some files are found by it.
        digest.update(f"{_name(path, each)}\0{each.stat().st_size}\0".encode())
        try:
            with open_regular(each) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    check_time()
                    digest.update(chunk)
        except OSError as error:
            raise _unreadable(error, each) from error
    return {"sha256": digest.hexdigest(), "files": files}


def _stat(path: Path) -> list[list[Any]]:
    found = []
    for each in _files(path):
        try:
            known = each.stat()
        except OSError as error:
            raise _unreadable(error, each) from error
        # The inode tells files apart that are alike in all else, without naming them, which
        # might name people.
        found.append([_name(path, each), known.st_size, known.st_mtime_ns, known.st_ino])
    return found


def _unreadable(error: OSError, path: Path) -> VolumeError:
    missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
    code = ErrorCode.FILE_MISSING if missing else ErrorCode.FILE_ACCESS
    return VolumeError(f"{path}: {error.strerror}", code=code)


def _files(path: Path) -> list[Path]:
    """A file with what lies beside it and decides how it is read, or all of a folder."""
    if path.is_dir():
        return sorted(Path(parent) / name for parent, _, names in os.walk(path) for name in names)
    stem = next(
        (path.name.removesuffix(each) for each in _SUFFIXES if path.name.endswith(each)), ""
    )
    beside = [path.with_name(f"{stem}{each}") for each in (".bval", ".json")] if stem else []
    return [path, *(each for each in beside if each.is_file())]


def _name(path: Path, file: Path) -> str:
    return (
        file.relative_to(path).as_posix() if file != path and path in file.parents else file.suffix
    )


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file of ours; empty if there is none or it is damaged."""
    try:
        content = json.loads(read_regular(path, _MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def fingerprint(content: dict[str, Any]) -> Fingerprint | None:
    """The fingerprint in a sidecar or record; None if it has none."""
    marker: Any = content.get("marker")
    try:
        return Fingerprint(marker["inputs"], marker["options"])
    except (KeyError, TypeError):
        return None


class Records:
    """Records of the cases that have no mask: failed and skipped ones.

    Parameters
    ----------
    out
        The output folder.
    """

    def __init__(self, out: Path) -> None:
        self._folder = out / STATE / "records"

    def read(self, name: str) -> dict[str, Any]:
        """The record of a case; empty without one."""
        return read_json(self._path(name))

    def fail(
        self, case: CohortCase, failure: dict[str, Any], made_from: Fingerprint | None
    ) -> None:
        """Record that a case failed."""
        self._write(
            case.name,
            {
                "status": "failed",
                "participant_id": f"sub-{case.participant}",
                "session_id": f"ses-{case.session}" if case.session else "n/a",
                "error": failure,
                "marker": made_from,
            },
        )

    def skip(self, skip: Skip) -> None:
        """Record why a scan is left out."""
        if self.read(skip.name).get("reason") != skip.reason:
            self._write(skip.name, {"status": "skipped", "reason": skip.reason})

    def forget(self, name: str) -> None:
        """Remove the record of a case."""
        self._path(name).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in sorted(self._folder.glob("*.json")):
            yield path.stem, read_json(path)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        path = self._path(name)
        write_all({path: f"{dumps(content)}\n".encode()}, overwrite=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
