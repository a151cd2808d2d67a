"""Claims on cases, so that processes on several machines can share one output folder.

A claim is a file that only one process can create, also on network file systems
without locks. Claims of a case are numbered: ``NAME.1`` belongs to the first
process that began it, ``NAME.2`` to the one that took over after the first had
died, and so on, so that taking over is as atomic as claiming, and what is left
tells how many processes a case has taken with it.
"""

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Self

from cnnres_infer.errors import OutputError
from cnnres_infer.host.deadline import check_time

# A case that ended this many processes is not tried again.
MOST_ATTEMPTS = 3
# The owner of a claim renews it; the file system may show that a minute late.
LEASE_S = 180.0
_RENEWALS = 8
_PAUSE_S = 0.2
_MAX_BYTES = 1 << 12
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
_PROC = Path("/proc")


class ExhaustedError(Exception):
    """A case that ended as many processes as it may."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a claim.

    Attributes
    ----------
    host
        Identifies the machine since it was booted, and the container in it.
    pid, started
        Its process ID there, and when it started in the system's own units; empty
        where the system does not tell.
    """

    host: str
    pid: int
    started: str

    @classmethod
    def of_this_process(cls) -> Self:
        """Describe the process that calls."""
        return cls(_host(), os.getpid(), _start_of(os.getpid()))

    @property
    def is_here(self) -> bool:
        """Whether this process can tell if it is running."""
        return bool(self.started) and self.host == _host()

    @property
    def is_running(self) -> bool:
        """Whether it is running, if `is_here`."""
        return _start_of(self.pid) == self.started


class Claims:
    """The claims in a folder.

    Parameters
    ----------
    folder
        The folder, on the file system that all processes share.
    lease
        Seconds after which a claim on another machine has lapsed if it was not renewed.
    """

    def __init__(self, folder: Path, lease: float = LEASE_S) -> None:
        self._folder = folder
        self._lease = lease

    def take(self, name: str) -> "Claim | None":
        """Claim a case.

        Returns
        -------
        Claim or None
            None if another process holds it.

        Raises
        ------
        ExhaustedError
            If `MOST_ATTEMPTS` processes died while they held it.
        OutputError
            If the folder cannot be written to.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            attempt = 1
            while (path := self._path(name, attempt)).exists():
                attempt += 1
            if attempt > 1 and not self._has_lapsed(self._path(name, attempt - 1)):
                return None
            if attempt > MOST_ATTEMPTS:
                raise ExhaustedError(name)
            return Claim(path, self._lease)
        except FileExistsError:
            return None
        except OSError as error:
            raise OutputError(
                f"{self._folder}: cannot be written ({error.strerror or error}); choose another "
                "folder"
            ) from error

    def forget(self, name: str) -> None:
        """Remove what dead processes left of a case."""
        for attempt in range(MOST_ATTEMPTS, 0, -1):
            self._path(name, attempt).unlink(missing_ok=True)

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Hold a claim inside the context, waiting until no other process does.

        Processes that died with it do not count, since no case is to blame.
        """
        while True:
            try:
                claim = self.take(name)
            except ExhaustedError:
                self.forget(name)
                continue
            if claim is not None:
                break
            check_time()
            time.sleep(_PAUSE_S)
        with claim:
            yield

    def _path(self, name: str, attempt: int) -> Path:
        return self._folder / f"{name}.{attempt}"

    def _has_lapsed(self, path: Path) -> bool:
        try:
            # Opened, since only that makes network file systems ask for the present state.
            with path.open("rb") as file:
                content, renewed = file.read(_MAX_BYTES), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            # Released at this moment: the case is done, or will be claimed at the next try.
            return False
        owner = _parse(content)
        if owner is not None and owner.is_here:
            return not owner.is_running
        return self.now() - renewed > self._lease

    def now(self) -> float:
        """The time by the clock of the file system, which dates the claims as well."""
        self._folder.mkdir(parents=True, exist_ok=True)
        probe = self._folder / f".clock-{secrets.token_hex(8)}"
        descriptor = os.open(probe, _NEW, 0o666)
        try:
            return os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
            probe.unlink(missing_ok=True)


class Claim:
    """A claim of this process, which renews it until it is released.

    Parameters
    ----------
    path
        Its file, ``NAME.ATTEMPT``.
    lease
        See `Claims`.

    Raises
    ------
    FileExistsError
        If another process has just created it.
    """

    def __init__(self, path: Path, lease: float) -> None:
        descriptor = os.open(path, _NEW, 0o666)
        try:
            os.write(descriptor, json.dumps(asdict(Owner.of_this_process())).encode())
        finally:
            os.close(descriptor)
        self._path = path
        self._released = threading.Event()
        _HELD.add(self)
        threading.Thread(target=self._renew, args=(lease / _RENEWALS,), daemon=True).start()

    @property
    def is_held(self) -> bool:
        """Whether no other process has taken over, since this one seemed dead to it."""
        following = self._path.with_name(f"{self._stem}.{self._attempt + 1}")
        return self._path.exists() and not following.exists()

    def release(self) -> None:
        """Remove the claim, and those of the dead processes before it."""
        self._released.set()
        _HELD.discard(self)
        for attempt in range(self._attempt, 0, -1):
            with suppress(OSError):
                self._path.with_name(f"{self._stem}.{attempt}").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    @property
    def _stem(self) -> str:
        return self._path.name.rpartition(".")[0]

    @property
    def _attempt(self) -> int:
        return int(self._path.name.rpartition(".")[2])

    def _renew(self, interval: float) -> None:
        while not self._released.wait(interval):
            with suppress(OSError):
                os.utime(self._path)


_HELD: set[Claim] = set()


def release_all() -> None:
    """Release all claims of this process, which is about to end with work unfinished."""
    for claim in list(_HELD):
        claim.release()


def _parse(content: bytes) -> Owner | None:
    """The owner; None if the file was not written yet, or by nobody that we know."""
    try:
        return Owner(**json.loads(content))
    except (ValueError, TypeError):
        return None


@cache
def _host() -> str:
    parts = [platform.node()]
    with suppress(OSError):
        parts.append((_PROC / "sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str((_PROC / "self/ns/pid").readlink()))
    return " ".join(parts)


def _start_of(pid: int) -> str:
    """When a process started, in ticks since the system did; empty if it is not running."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return ""
    # After the name, which may hold anything.
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]
