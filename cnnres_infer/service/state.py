"""The work area of a service: folders and files that a person can read, and no database.

```text
ROOT/working/CASE/     claimed: originals/ as they arrived, and record.json
ROOT/done/CASE/        computed
ROOT/failed/CASE/      refused; reason.txt says why
```

A case is in one of these folders or still where it arrived, and goes from one to
the next by a single rename. So whenever the process ends, the next one finds
each case once.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.jsonable import to_json
from cnnres_infer.errors import InputError, OutputError, UsageError
from cnnres_infer.host.durable import move_durably, remove_temporary, sync_folder, write_durably
from cnnres_infer.host.lock import wait_for
from cnnres_infer.service.record import Record

RECORD, ORIGINALS, REASON = "record.json", "originals", "reason.txt"
LOG, METRICS, STUCK = "log.jsonl", "metrics.prom", "service.stuck"
_WORKING, _DONE, _FAILED = "working", "done", "failed"
INCOMING, RECEIVING, OUTBOX = "incoming", "receiving", "outbox"
_LOCK, _SALT, _README = "service.lock", "service.salt", "README.txt"

# Whoever looks whether the lock is held has it for a moment.
_PATIENCE_S = 0.3

_FOLDERS = (_WORKING, _DONE, _FAILED, OUTBOX)
# What a hot folder holds besides cases.
RESERVED = frozenset((*_FOLDERS, INCOMING, LOG, METRICS, STUCK, _LOCK, _SALT, _README))
_EXPLANATION = """\
This folder belongs to the service of cnnres-infer.

working/CASE/   being computed; goes on after a restart
done/CASE/      computed; originals/ has what arrived
failed/CASE/    refused; reason.txt says why, and originals/ has what arrived
incoming/       studies of which something may be missing yet (of a listener)
receiving/      which studies are being received (of a listener)
outbox/         results that are to be pushed (pending/) or have been (sent/)
log.jsonl       one line for each study
metrics.prom    figures for Prometheus
service.stuck   which cases cannot be moved to working/, and why

To try a failed case again, move what is in its originals/ to where cases arrive: incoming/
of a listener, and otherwise this folder.
Originals are never deleted by the service: remove folders in done/ when you no longer need them.
"""


@dataclass(frozen=True)
class ClaimedCase:
    """A case in the folder ``working``.

    Attributes
    ----------
    folder
        Its own folder there.
    record
        What is known of it.
    """

    folder: Path
    record: Record

    @property
    def path(self) -> Path:
        """What is segmented."""
        return self.folder / ORIGINALS / self.record.name

    def write(self, record: Record) -> Self:
        """Replace the record."""
        content = json.dumps(to_json(record), indent=2)
        write_durably(self.folder / RECORD, content.encode(), b"\n")
        return replace(self, record=record)


@dataclass(frozen=True)
class WorkArea:
    """The folders of a service; see `open_area`.

    Attributes
    ----------
    root
        The folder that holds the others.
    incoming
        Where cases arrive.
    """

    root: Path
    incoming: Path
    _salt: bytes = field(repr=False, default=b"")

    @property
    def working(self) -> Path:
        """Claimed cases."""
        return self.root / _WORKING

    @property
    def done(self) -> Path:
        """Computed cases."""
        return self.root / _DONE

    @property
    def failed(self) -> Path:
        """Refused cases."""
        return self.root / _FAILED

    def study(self, name: str) -> str:
        """Hash of a name, which the log may show; without the salt, it cannot be looked up."""
        return hmac.new(self._salt, os.fsencode(name), hashlib.sha256).hexdigest()[:16]

    def claim(
        self, case: str, paths: Sequence[Path], name: str, arrived: float, now: float
    ) -> ClaimedCase:
        """Move a case to ``working``.

        Parameters
        ----------
        case
            Name of its folder there, which nothing else has.
        paths
            Files and folders of the case; what is segmented comes last.
        name
            What the last one is called from then on.
        arrived, now
            Seconds since 1970.

        Raises
        ------
        InputError
            If the case cannot be moved, while the area can be written to.
        OSError
            If the area cannot be written to, or the case is gone.
        """
        record = Record(self.study(case), name, arrived, now)
        claimed = ClaimedCase(self.working / case, record)
        (claimed.folder / ORIGINALS).mkdir(parents=True)
        try:
            sync_folder(self.working)
            claimed.write(record)
            try:
                for path in paths[:-1]:
                    move_durably(path, claimed.folder / ORIGINALS / path.name)
                move_durably(paths[-1], claimed.path)
            except PermissionError as error:
                raise immovable(paths[-1], error) from error
        except (OSError, InputError):
            self._put_back(claimed.folder)
            raise
        return claimed

    def claimed(self) -> Iterator[ClaimedCase]:
        """Cases that an earlier process claimed; what it did not claim whole is put back."""
        for folder in sorted(self.working.iterdir()):
            if not folder.is_dir():
                continue
            remove_temporary(folder)
            record = _read_record(folder)
            if record is not None and os.path.lexists(folder / ORIGINALS / record.name):
                yield ClaimedCase(folder, record)
            else:
                self._put_back(folder)

    def finish(self, case: ClaimedCase) -> Path:
        """Move a case with an outcome to ``done`` or ``failed``, and return its folder there."""
        outcome = case.record.outcome
        assert outcome is not None
        if outcome.status != _DONE:
            reason = f"{outcome.code}: {outcome.message}\n"
            write_durably(case.folder / REASON, reason.encode(errors="backslashreplace"))
        target = free_name(self.root / outcome.status / case.folder.name)
        move_durably(case.folder, target)
        return target

    def _put_back(self, folder: Path) -> None:
        """Return a case of which not everything was moved to where it arrived."""
        originals = folder / ORIGINALS
        for path in sorted(originals.iterdir()) if originals.is_dir() else ():
            if os.path.lexists(self.incoming / path.name):
                # Nothing is overwritten: both are kept, for a person to look at.
                text = "its record is missing, and another of its name has arrived"
                write_durably(folder / REASON, text.encode(), b"\n")
                move_durably(folder, free_name(self.failed / folder.name))
                return
            move_durably(path, self.incoming / path.name)
        (folder / RECORD).unlink(missing_ok=True)
        for empty in (originals, folder):
            with suppress(OSError):
                empty.rmdir()


@contextmanager
def open_area(root: Path, incoming: Path | None = None) -> Iterator[WorkArea]:
    """Create the folders of a work area, and hold its lock inside the context.

    Parameters
    ----------
    root
        The folder of the area.
    incoming
        Where cases arrive, on the same file system; by default the area itself.

    Raises
    ------
    UsageError
        If another process works there, or what is there is in the way.
    OutputError
        If the folder cannot be written to.
    """
    area = WorkArea(root, root if incoming is None else incoming)
    _check_unused(area)
    try:
        # A new one is for this user alone; an existing one keeps its permissions.
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The first of all, since it tells whose the others are.
        (root / _LOCK).touch(0o644)
        for folder in (area.working, area.done, area.failed, area.incoming):
            folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root / _LOCK, os.O_RDWR)
    except OSError as error:
        raise _cannot_write(root, error) from error
    try:
        try:
            wait_for(descriptor, _PATIENCE_S)
        except TimeoutError as error:
            raise UsageError(
                f"{root}: another process works in this folder; end it, or give another folder"
            ) from error
        try:
            remove_temporary(root)
            _explain(root / _README)
            yield replace(area, _salt=_salt(root / _SALT))
        except PermissionError as error:
            raise _cannot_write(root, error) from error
    finally:
        os.close(descriptor)


def read_area(root: Path) -> WorkArea:
    """The folders of a work area to look at, whoever works there.

    Raises
    ------
    UsageError
        If the folder is no work area.
    """
    if not (root / _LOCK).is_file():
        raise UsageError(
            f"{root}: no service has worked in this folder; give that of listen, or IN of watch"
        )
    return WorkArea(root, root / INCOMING if is_of_listener(root) else root)


def is_of_listener(root: Path) -> bool:
    """Whether a folder is the work area of a listener, which has received studies in it."""
    return (root / INCOMING).is_dir() and (root / RECEIVING).is_dir()


def own_folders(root: Path) -> tuple[Path, ...]:
    """The folders of a listener's work area."""
    return tuple(root / name for name in (INCOMING, RECEIVING, *_FOLDERS))


def is_running(area: WorkArea) -> bool:
    """Whether a process works in an area."""
    with (area.root / _LOCK).open("rb") as file:
        try:
            wait_for(file.fileno(), _PATIENCE_S)
        except TimeoutError:
            return True
        return False


def immovable(path: Path, error: PermissionError) -> InputError:
    """What to say of a case that cannot be moved."""
    return InputError(
        f"{path}: cannot be moved ({error.strerror or error}); "
        "give it, with all that is in it, to the user that runs the service",
        code=ErrorCode.FILE_ACCESS,
    )


def free_name(path: Path) -> Path:
    """The path itself, or with the first number that nothing there has."""
    number, found = 1, path
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def _read_record(folder: Path) -> Record | None:
    try:
        return Record.of(json.loads((folder / RECORD).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_unused(area: WorkArea) -> None:
    """Raise if a folder in which no service has worked has anything by the names of its files."""
    if any((area.root / name).exists() for name in (_LOCK, _SALT)):
        return
    for path in {area.incoming, *map(area.root.joinpath, RESERVED - {_README})} - {area.root}:
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise UsageError(
                f"{path}: is in the way, since the service would use it and has not made it; "
                "rename it, or give another folder"
            )


def _explain(path: Path) -> None:
    """Write what the folder is, unless another file has that name."""
    found = path.read_bytes() if path.is_file() else b""
    if not os.path.lexists(path) or found.startswith(_EXPLANATION.partition("\n")[0].encode()):
        write_durably(path, _EXPLANATION.encode())


def _salt(path: Path) -> bytes:
    if not path.exists():
        write_durably(path, secrets.token_hex(32).encode(), mode=0o600)
    return path.read_bytes()


def _cannot_write(root: Path, error: OSError) -> OutputError:
    reason = error.strerror or error
    return OutputError(f"{root}: cannot be written ({reason}); give a folder that can")
