"""Pushing results by C-STORE, from the queue on disk."""

import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from cnnres_infer.errors import UsageError
from cnnres_infer.service.health import Health
from cnnres_infer.service.receiver import check_title
from cnnres_infer.service.retry_queue import Push, RetryQueue
from cnnres_infer.service.silence import require_pynetdicom
from cnnres_infer.service.transport import ClientFiles, NotedHandshake, send_at_once

_ADDRESS = re.compile(
    r"(?P<tls>tls://)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]/:@\s]+):(?P<port>\d{1,5})/(?P<title>.+)"
)
_TIMEOUT_S = 30.0
_POLL_S = 0.25
# More presentation contexts cannot be proposed at once.
_MOST_AT_ONCE = 100


@dataclass(frozen=True)
class Destination:
    """Where results go.

    Attributes
    ----------
    host, port
        The address.
    title
        Called AE title.
    tls
        Whether the connection is encrypted.
    """

    host: str
    port: int
    title: str
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``"HOST:PORT/AET"``, with ``tls://`` before it for TLS.

        Raises
        ------
        UsageError
            If it is none.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None or not 0 < int(found["port"]) < 65536:
            raise UsageError(
                f"`send_to`: {text!r} is no destination; give HOST:PORT/AET or tls://HOST:PORT/AET"
            )
        title = check_title("send_to", found["title"])
        return cls(found["host"].strip("[]"), int(found["port"]), title, bool(found["tls"]))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls://' if self.tls else ''}{host}:{self.port}/{self.title}"


class Sender:
    """Pushes what is due, and postpones what fails.

    Parameters
    ----------
    queue
        The queue.
    title
        Own AE title.
    health
        Told of what happens.
    tls
        Files for destinations with TLS.

    Raises
    ------
    UsageError
        If a setting is wrong, or a file cannot be used.
    """

    def __init__(
        self, queue: RetryQueue, title: str, health: Health, tls: ClientFiles | None = None
    ) -> None:
        self._queue = queue
        self._title = check_title("ae_title", title)
        self._health = health
        self._tls = (tls or ClientFiles()).context()

    def start(self) -> None:
        """Push for as long as the process runs, on a thread of its own."""
        require_pynetdicom()
        threading.Thread(target=self._run, name="sender", daemon=True).start()

    def push_due(self) -> None:
        """Push what is due now, in one association for each destination."""
        now = time.time()
        due = sorted(
            (push for push in self._queue.pending() if push.next_try <= now),
            key=lambda push: push.peer,
        )
        for peer, pushes in groupby(due, key=lambda push: push.peer):
            self._push(Destination.parse(peer), list(pushes)[:_MOST_AT_ONCE])

    def _run(self) -> None:
        while True:
            try:
                self.push_due()
            except Exception:
                # The disk may be full or gone: what is in the queue stays there.
                self._health.count("push failed")
                time.sleep(_TIMEOUT_S)
            time.sleep(_POLL_S)

    def _push(self, peer: Destination, pushes: list[Push]) -> None:
        readable = []
        for push in pushes:
            try:
                readable.append((push, _kind(push.file)))
            except Exception as error:  # it was removed, or is no DICOM any more
                self._postpone(push, f"{push.file.name} cannot be read ({error})")
        if not readable:
            return
        handshake = NotedHandshake(self._tls) if peer.tls else None
        association = self._associate(peer, {kind for _, kind in readable}, handshake)
        try:
            for push, _ in readable:
                failure = _send(association, push.file)
                if failure is None:
                    self._queue.sent(push)
                    self._health.count("object pushed")
                else:
                    reason = None if handshake is None else handshake.failure
                    self._postpone(push, failure if reason is None else f"no TLS: {reason}")
        finally:
            if association.is_established:
                association.release()

    def _associate(
        self, peer: Destination, kinds: Iterable[tuple[str, str]], tls: NotedHandshake | None
    ) -> Any:
        from pynetdicom import AE, evt

        entity = AE(ae_title=self._title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT_S
        entity.connection_timeout = _TIMEOUT_S
        for sop_class, syntax in sorted(kinds):
            entity.add_requested_context(sop_class, syntax)
        return entity.associate(
            peer.host,
            peer.port,
            ae_title=peer.title,
            tls_args=None if tls is None else (tls, peer.host),
            evt_handlers=[(evt.EVT_CONN_OPEN, _bound)],
        )

    def _postpone(self, push: Push, error: str) -> None:
        self._health.count("push failed")
        self._queue.postpone(push, error, time.time())


def _bound(event: Any) -> None:
    """Have a connection given up that stops in the middle; pynetdicom would wait for ever."""
    connection = event.assoc.dul.socket.socket
    connection.settimeout(_TIMEOUT_S)
    send_at_once(connection)


def _kind(path: Path) -> tuple[str, str]:
    """Class and transfer syntax of an object."""
    from pydicom.filereader import read_file_meta_info

    meta = read_file_meta_info(path)
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)


def _send(association: Any, path: Path) -> str | None:
    """Send an object; returns what went wrong, None if nothing did."""
    if not association.is_established:
        if association.is_rejected:
            return "the association was rejected"
        return "no association: the other side does not answer, or it has aborted"
    try:
        status = association.send_c_store(path)
    except (ValueError, AttributeError, OSError) as error:
        return f"the other side does not take this class of objects ({error})"
    if "Status" not in status:
        return "no answer"
    # Warnings have stored the object; PS3.4, table B.2-1.
    if status.Status == 0 or status.Status >> 12 == 0xB:
        return None
    return f"the other side has answered 0x{status.Status:04X}"
