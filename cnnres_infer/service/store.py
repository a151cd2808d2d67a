"""Where received instances are kept: a folder for each study, named by hashes of their UIDs.

An instance is looked for in the study's folder in ``incoming``, and wherever an
earlier part of the study went. A study that grows after it was computed is
computed again, whole, as ``STUDY-2`` and so on: what came first is linked to it.

A study that is being received has a file in the folder ``receiving`` until its
association is released, so that a sender may pause. If the association is aborted,
or the process ends, the sender comes back, which the study then waits for.
"""

import hashlib
import io
import os
import shutil
import threading
import zlib
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from cnnres_infer.host.durable import remove_temporary, sync_folder, write_durably, write_synced
from cnnres_infer.service.state import ORIGINALS, RECEIVING, ClaimedCase, WorkArea, immovable

# What is answered to C-STORE; PS3.4, table B.2-1.
SUCCESS, NO_SPACE, MISMATCH, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
_SUFFIX = ".dcm"
# What arrives names patients: others on this machine must not read it, whatever the umask.
_PRIVATE, _PRIVATE_FOLDER = 0o600, 0o700
# Floats, doubles and integers.
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_DEFLATED, _MOST_INFLATED = "1.2.840.10008.1.2.1.99", 1 << 29
# How long a sender may pause, or take to come back when it got no answer. If it takes longer,
# what there is is computed, and computed again with the rest.
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Instance:
    """An object that was received.

    Attributes
    ----------
    sop_class, sop_instance
        Its UIDs, as the sender states them.
    syntax
        UID of the transfer syntax.
    meta
        The preamble and the file meta information.
    data
        The data set, as it was sent.
    """

    sop_class: str
    sop_instance: str
    syntax: str
    meta: bytes
    data: bytes


class Store:
    """Keeps instances; several threads may receive at the same time.

    Parameters
    ----------
    area
        The work area.
    min_free
        Bytes that must stay free on the disk.
    settle
        Seconds that a study must be quiet for.
    """

    def __init__(self, area: WorkArea, min_free: int, settle: float = 0.0) -> None:
        self._area = area
        self._min_free = min_free
        self._settle = settle
        self._lock = threading.Lock()
        # Studies of each association that has not ended.
        self._open: dict[Hashable, set[str]] = {}
        self._interrupted: set[str] = set()

    def put(self, instance: Instance, association: Hashable = None) -> tuple[int, bool]:
        """Keep an instance.

        Parameters
        ----------
        instance
            The instance.
        association
            What it was sent in; see `end`.

        Returns
        -------
        tuple
            The status to answer, and whether the instance is new. Once it is
            success, the instance is on the disk.
        """
        try:
            identifiers = _identifiers(instance)
        except Exception:  # whatever pydicom finds wrong with bytes from elsewhere
            return NOT_UNDERSTOOD, False
        study, sop_class, sop_instance = identifiers
        if not study or not sop_instance:
            return NOT_UNDERSTOOD, False
        if (sop_class, sop_instance) != (instance.sop_class, instance.sop_instance):
            return MISMATCH, False
        try:
            self._begin(hashed(study), association)
            return self._keep(hashed(study), hashed(sop_instance) + _SUFFIX, instance)
        except OSError:
            return NO_SPACE, False

    def end(self, association: Hashable, *, released: bool) -> None:
        """Note that an association has ended.

        Parameters
        ----------
        association
            What instances were put with.
        released
            Whether the sender has said that this was all. Otherwise, it is going to come
            back, since it cannot know what has arrived.
        """
        with self._lock:
            ended = self._open.pop(association, set())
            if not released:
                self._interrupted |= ended
                return
            for study in ended - set().union(*self._open.values()):
                self._interrupted.discard(study)
                (self._receiving / study).unlink(missing_ok=True)

    def wait_s(self, study: str) -> float:
        """Seconds that a study must be quiet for."""
        with self._lock:
            is_open = any(study in studies for studies in self._open.values())
            if is_open or study in self._interrupted:
                return max(self._settle, _PATIENCE_S)
        return self._settle

    def claim(self, folder: Path, arrived: float, now: float) -> ClaimedCase:
        """Claim a study with all that belongs to it.

        Raises
        ------
        InputError, OSError
            See `WorkArea.claim`.
        """
        with self._lock:
            rounds = self._rounds(folder.name)
            try:
                for earlier in rounds:
                    _link_all(earlier, folder)
            except PermissionError as error:
                raise immovable(folder, error) from error
            last = _round(folder.name, rounds[-1]) if rounds else 0
            name = folder.name if not last else f"{folder.name}-{last + 1}"
            return self._area.claim(name, (folder,), name, arrived, now)

    def is_known(self, study: str, name: str) -> bool:
        """Whether an instance has arrived before."""
        folders = (self._area.incoming / study, *self._rounds(study))
        return any((folder / name).exists() for folder in folders)

    def _keep(self, study: str, name: str, instance: Instance) -> tuple[int, bool]:
        with self._lock:
            if self.is_known(study, name):
                return SUCCESS, False
        needed = self._min_free + len(instance.data)
        if shutil.disk_usage(self._area.incoming).free < needed:
            return NO_SPACE, False
        # Outside of the folders that are watched, and without the lock: the disk may be slow.
        arriving = self._area.incoming / f".{study}-{name}-{threading.get_ident()}"
        try:
            write_synced(arriving, instance.meta, instance.data, mode=_PRIVATE)
            with self._lock:
                if self.is_known(study, name):
                    return SUCCESS, False
                folder = self._area.incoming / study
                if not folder.exists():
                    folder.mkdir(mode=_PRIVATE_FOLDER)
                    sync_folder(self._area.incoming)
                arriving.replace(folder / name)
                sync_folder(folder)
            return SUCCESS, True
        finally:
            arriving.unlink(missing_ok=True)

    def recover(self) -> None:
        """Find what was being received when an earlier process ended, and remove parts of it.

        Those were not answered, and will be sent again.
        """
        self._receiving.mkdir(exist_ok=True)
        remove_temporary(self._receiving)
        self._interrupted = {path.name for path in self._receiving.iterdir()}
        for path in self._area.incoming.glob(".*"):
            if path.is_file():
                path.unlink()

    @property
    def _receiving(self) -> Path:
        return self._area.root / RECEIVING

    def _begin(self, study: str, association: Hashable) -> None:
        with self._lock:
            studies = self._open.setdefault(association, set())
            if study in studies:
                return
            write_durably(self._receiving / study)
            studies.add(study)

    def _rounds(self, study: str) -> list[Path]:
        """Folders with the instances of a study that were claimed, the first ones first."""
        places = (self._area.working, self._area.done, self._area.failed)
        # A person may have removed any of them, or moved what is in it back.
        names = (f"{study}/{ORIGINALS}/*", f"{study}-*/{ORIGINALS}/*")
        found = (each for place in places for name in names for each in place.glob(name))
        folders = (each for each in found if each.is_dir())
        return sorted(folders, key=lambda folder: _round(study, folder))


def hashed(uid: str) -> str:
    """Name of a file or folder for a UID."""
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def _round(study: str, folder: Path) -> int:
    """How many times a study had been claimed when a folder was."""
    number = folder.name[len(study) + 1 :].partition("-")[0]
    return int(number) if number.isdecimal() else 1


def _identifiers(instance: Instance) -> tuple[str, str, str]:
    """UIDs of the study, the class and the instance in the data set, up to which it is parsed."""
    from pydicom.filereader import read_dataset
    from pydicom.tag import Tag
    from pydicom.uid import UID

    content, syntax = instance.data, UID(instance.syntax)
    if syntax == _DEFLATED:
        # pydicom would inflate it whatever its size.
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        content = inflater.decompress(content, _MOST_INFLATED)
        if not inflater.eof:
            raise ValueError("truncated, or too large")
    names = ("StudyInstanceUID", "SOPClassUID", "SOPInstanceUID")
    # The bytes as they are: to put the file meta information before them would copy them.
    found = read_dataset(
        io.BytesIO(content),
        syntax.is_implicit_VR,
        syntax.is_little_endian,
        stop_when=lambda tag, _vr, _length: tag in _PIXELS,
        specific_tags=[Tag(name) for name in names],
    )
    study, sop_class, sop_instance = (str(found.get(name, "") or "") for name in names)
    return study, sop_class, sop_instance


def _link_all(source: Path, target: Path) -> None:
    """Give all files of a folder a name in another as well, where they have none."""
    for path in source.iterdir():
        if not (target / path.name).exists():
            try:
                os.link(path, target / path.name)
            except OSError:
                # Not every file system has several names for a file.
                write_durably(target / path.name, path.read_bytes(), mode=_PRIVATE)
    sync_folder(target)
