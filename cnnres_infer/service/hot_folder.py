"""Which cases in a folder are complete: those that nothing has changed for a while."""

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cnnres_infer.errors import UsageError
from cnnres_infer.service.state import RESERVED

_NIFTI = (".nii.gz", ".nii")
# They belong to the image of the same name, and are no case without it.
_SIDECARS = (".bval", ".bvec", ".json")
# Names under which programs write what is not there yet.
_UNFINISHED = (".part", ".partial", ".tmp", ".filepart", ".crdownload", ".swp")
_LONGEST_SETTLE_S = 86400.0


@dataclass(frozen=True)
class Arrival:
    """A complete case, where it arrived.

    Attributes
    ----------
    paths
        Its files and folders, what is segmented last.
    arrived
        When the last of it changed, in seconds since 1970.
    """

    paths: tuple[Path, ...]
    arrived: float

    @property
    def main(self) -> Path:
        """What is segmented."""
        return self.paths[-1]


# Size, times and place of every file of a case.
_Snapshot = tuple[tuple[str, int, int, int], ...]


class HotFolder:
    """Watches a folder.

    Hidden files, files that are still being written by their names, and what is
    no case at all are left alone.

    Parameters
    ----------
    folder
        The folder.
    settle
        Seconds that a case must not have changed for.
    wait_s
        Tells that of a case by its name; by default `settle`.

    Raises
    ------
    UsageError
        If `settle` is negative or longer than a day.
    """

    def __init__(
        self, folder: Path, settle: float, wait_s: Callable[[str], float] | None = None
    ) -> None:
        if not 0 <= settle <= _LONGEST_SETTLE_S:
            raise UsageError(f"`settle` is {settle}; give 0 to {_LONGEST_SETTLE_S:g} seconds")
        self.folder = folder
        self.settle = settle
        self._wait_s = wait_s or (lambda _: settle)
        self._seen: dict[str, tuple[_Snapshot, float]] = {}

    @property
    def poll_s(self) -> float:
        """Seconds to wait between two looks."""
        return min(max(self.settle / 8, 0.05), 0.5)

    def complete(self) -> list[Arrival]:
        """Cases that have been quiet for long enough, the longest waiting first."""
        now = time.monotonic()
        seen: dict[str, tuple[_Snapshot, float]] = {}
        found = []
        for paths in self._entries():
            snapshot = _snapshot(paths)
            key = paths[-1].name
            before, since = self._seen.get(key, ((), now))
            since = since if snapshot == before else now
            seen[key] = (snapshot, since)
            if snapshot and now - since >= self._wait_s(key):
                found.append(Arrival(paths, _newest(snapshot)))
        self._seen = seen
        return sorted(found, key=lambda arrival: arrival.arrived)

    def is_unchanged(self, arrival: Arrival) -> bool:
        """Whether a case is still as it was found to be complete."""
        return _snapshot(arrival.paths) == self._seen.get(arrival.main.name, ((), 0.0))[0]

    def waiting(self) -> list[float]:
        """When each case that is not claimed yet changed last, in seconds since 1970."""
        snapshots = (_snapshot(paths) for paths in self._entries())
        return [_newest(snapshot) for snapshot in snapshots if snapshot]

    def _entries(self) -> Iterator[tuple[Path, ...]]:
        entries = {path.name: path for path in sorted(self.folder.iterdir())}
        for name, path in entries.items():
            if name.startswith(".") or name in RESERVED or name.lower().endswith(_UNFINISHED):
                continue
            if name.lower().endswith(_SIDECARS) and not path.is_dir():
                continue
            yield (*_sidecars(name, entries), path)


def _sidecars(name: str, entries: dict[str, Path]) -> Iterator[Path]:
    stem = next((name[: -len(end)] for end in _NIFTI if name.lower().endswith(end)), None)
    if stem is not None:
        for end in _SIDECARS:
            if (beside := entries.get(stem + end)) is not None and not beside.is_dir():
                yield beside


def _snapshot(paths: tuple[Path, ...]) -> _Snapshot:
    """State of all files; empty if there are none, or some go away meanwhile."""
    with suppress(OSError):
        return tuple(each for path in paths for each in _states(path))
    return ()


def _states(path: Path) -> Iterator[tuple[str, int, int, int]]:
    found = path.stat()
    if not stat.S_ISDIR(found.st_mode):
        yield str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns
        return
    for parent, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(parent, name)
            found = file.lstat()
            yield str(file), found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _newest(snapshot: _Snapshot) -> float:
    # The time of the change of the file here: copies may keep the time of their source.
    return max(state[3] for state in snapshot) / 1e9
