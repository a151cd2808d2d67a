"""The files of a study: in a folder, in a zip archive, or a single one."""

import io
import logging
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import CnnresError, InputError, LimitError, VolumeError
from cnnres_infer.limits import Limits

ZIP = b"PK\x03\x04"
_EMPTY_ZIP = b"PK\x05\x06"
_MAGIC, _MAGIC_AT = b"DICM", 128
_HEAD_BYTES = _MAGIC_AT + len(_MAGIC)
_MAX_FILES = 200_000
_ENCRYPTED = 0x1

log = logging.getLogger("cnnres_infer.readers.dicom")


@dataclass(frozen=True, eq=False)
class StudyFile:
    """A file that looks like DICOM.

    Attributes
    ----------
    name
        Path of the file, or of the archive and the member in it; for messages.
    path
        The file itself; None for a member of an archive.
    """

    name: str
    path: Path | None
    _archive: zipfile.ZipFile | None = field(default=None, repr=False)
    _member: zipfile.ZipInfo | None = field(default=None, repr=False)

    def size(self) -> int:
        """Size in bytes, decompressed."""
        if self._member is not None:
            return self._member.file_size
        assert self.path is not None
        return self.path.stat().st_size

    def read(self, limits: Limits) -> bytes:
        """The whole content.

        Raises
        ------
        LimitError
            If it is larger than `Limits.max_bytes`.
        VolumeError
            If it cannot be read.
        """
        code = ErrorCode.FILE_ACCESS if self.path else ErrorCode.DICOM_ARCHIVE
        with _reading(f"{self.name}:", "copy it again from its source", code):
            check_bytes(self.name, self.size(), limits)
            if self.path is not None:
                return self.path.read_bytes()
            assert self._archive is not None
            assert self._member is not None
            with self._archive.open(self._member) as stream:
                content = stream.read(limits.max_bytes + 1)
        check_bytes(self.name, len(content), limits)
        return content

    def open(self, limits: Limits) -> io.BufferedIOBase:
        """The content as a stream that can seek; a member of an archive is read whole."""
        if self.path is None:
            return io.BytesIO(self.read(limits))
        try:
            check_bytes(self.name, self.size(), limits)
            return self.path.open("rb")
        except OSError as error:
            raise VolumeError(
                f"{self.name}: {error.strerror or error}", code=ErrorCode.FILE_ACCESS
            ) from error


def check_bytes(name: str, size: int, limits: Limits) -> None:
    """Raise `LimitError` if a size in bytes is above `Limits.max_bytes`."""
    if size > limits.max_bytes:
        raise LimitError(
            f"{name}: {size} bytes, more than `max_bytes` ({limits.max_bytes})",
            code=ErrorCode.LIMIT_BYTES,
        )


def is_dicom(head: bytes) -> bool:
    """Whether a file that starts with `head` looks like DICOM, with or without a preamble."""
    if head[_MAGIC_AT:_HEAD_BYTES] == _MAGIC:
        return True
    group, element = head[:2], head[2:4]
    length = int.from_bytes(head[4:8], "little")
    has_vr = head[4:6].isalpha() and head[4:6].isupper()
    return (
        group in (b"\x02\x00", b"\x08\x00")
        and len(head) >= 8
        and int.from_bytes(element, "little") < 0x20
        and (has_vr or length < 1 << 10)
    )


@contextmanager
def study_files(path: Path, limits: Limits) -> Iterator[list[StudyFile]]:
    """The DICOM files below a folder, in a zip archive, or a single one, in the order of names.

    What is not DICOM is skipped, and so is a ``DICOMDIR``: what a study holds
    is told from its images alone.

    Raises
    ------
    VolumeError
        If nothing is there, or an archive is damaged or unsafe.
    LimitError
        If there are too many files, or the content of an archive is larger than
        `Limits.max_bytes`.
    """
    if path.is_dir():
        yield _in_folder(path)
        return
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if not head.startswith((ZIP, _EMPTY_ZIP)):
            yield [StudyFile(str(path), path)]
            return
        check_bytes(str(path), path.stat().st_size, limits)
    except OSError as error:
        raise VolumeError(f"{path}: {error.strerror or error}", code=_access(error)) from error
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise VolumeError(
            f"{path}: a damaged archive ({error}); copy it again from its source",
            code=ErrorCode.DICOM_ARCHIVE,
        ) from error
    with archive:
        yield _in_archive(path, archive, limits)


def has_dicom(path: Path) -> bool:
    """Whether any file below a folder looks like DICOM, as far as they can be read."""
    with suppress(InputError):
        return any(True for _ in _walk(path))
    return True


def _in_folder(path: Path) -> list[StudyFile]:
    found = sorted(_walk(path))
    return [StudyFile(str(each), each) for each in found]


def _walk(folder: Path) -> Iterator[Path]:
    seen = skipped = 0
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders.sort()
        for name in sorted(names):
            seen += 1
            if seen > _MAX_FILES:
                raise LimitError(
                    f"{folder}: more than {_MAX_FILES} files; give the folder of a single study"
                )
            file = Path(parent, name)
            if name.upper() != "DICOMDIR" and is_dicom(_head(file)):
                yield file
            else:
                skipped += 1
    _record(skipped)


def _record(skipped: int) -> None:
    # Without names, since folders and files are often named after patients.
    if skipped:
        log.info("%d files skipped: not DICOM images", skipped)


def _refuse(error: OSError) -> None:
    raise VolumeError(f"{error.filename}: {error.strerror}", code=_access(error)) from error


def _access(error: OSError) -> ErrorCode:
    missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
    return ErrorCode.FILE_MISSING if missing else ErrorCode.FILE_ACCESS


def _head(file: Path) -> bytes:
    """First bytes of a regular file; nothing of a device or pipe, which might block."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return b""
        with file.open("rb") as stream:
            return stream.read(_HEAD_BYTES)
    except FileNotFoundError:
        return b""  # a dangling link
    except OSError as error:
        raise VolumeError(f"{file}: {error.strerror}", code=ErrorCode.FILE_ACCESS) from error


def _in_archive(path: Path, archive: zipfile.ZipFile, limits: Limits) -> list[StudyFile]:
    members = [each for each in archive.infolist() if not each.filename.endswith("/")]
    if len(members) > _MAX_FILES:
        raise LimitError(f"{path}: more than {_MAX_FILES} members; archive a single study")
    check_bytes(f"{path}: content", sum(each.file_size for each in members), limits)
    found = []
    for member in sorted(members, key=lambda each: each.filename):
        inside = PurePosixPath(member.filename.replace("\\", "/"))
        # Neither a member without a name nor "." has parts.
        is_inside = inside.parts and not inside.is_absolute() and ".." not in inside.parts
        if not is_inside or ":" in inside.parts[0]:
            raise VolumeError(
                f"{path}: the member {member.filename!r} would lie outside of the folder; "
                "archive the study again",
                code=ErrorCode.DICOM_ARCHIVE,
            )
        if member.flag_bits & _ENCRYPTED:
            raise VolumeError(
                f"{path}: {member.filename} is encrypted; decrypt the archive first",
                code=ErrorCode.DICOM_ARCHIVE,
            )
        file = StudyFile(f"{path}/{inside}", None, archive, member)
        if inside.name.upper() == "DICOMDIR" or not is_dicom(_member_head(archive, member, path)):
            continue
        found.append(file)
    _record(len(members) - len(found))
    return found


def _member_head(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> bytes:
    what = f"{path}: {member.filename}"
    with (
        _reading(what, "copy the archive again", ErrorCode.DICOM_ARCHIVE),
        archive.open(member) as stream,
    ):
        return stream.read(_HEAD_BYTES)


@contextmanager
def _reading(what: str, remedy: str, code: ErrorCode) -> Iterator[None]:
    """Say that something cannot be read; archives tell their damage by eight kinds of errors."""
    try:
        yield
    except (CnnresError, MemoryError, AssertionError):
        raise
    except Exception as error:
        reason = str(error) or ("it ends early" if isinstance(error, EOFError) else repr(error))
        raise VolumeError(f"{what} cannot be read ({reason}); {remedy}", code=code) from error
