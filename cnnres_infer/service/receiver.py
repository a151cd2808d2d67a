"""The listener: C-STORE and C-ECHO, with limits on who sends, how much, and how fast."""

import contextlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import OutputError, UsageError
from cnnres_infer.service.health import Health
from cnnres_infer.service.silence import require_pynetdicom
from cnnres_infer.service.sop_classes import STORED
from cnnres_infer.service.store import NOT_UNDERSTOOD, SUCCESS, Instance, Store
from cnnres_infer.service.transport import (
    LateHandshake,
    acknowledge_at_once,
    check_pair,
    server_context,
)

# PDUs of association requests are not negotiated; 128 presentation contexts fit.
_LARGEST_OTHER_PDU = 1 << 20
_P_DATA = 0x04
# Connections for each association that is allowed: those that have not asked for one yet are
# none, and must not pile up.
_CONNECTIONS = 4
_PREAMBLE = b"\0" * 128 + b"DICM"
_PDU_HEADER_BYTES = 6
_SMALLEST_PDU, _LARGEST_PDU = 1 << 12, 1 << 24
_REJECTED_PERMANENTLY, _BY_SERVICE_USER, _CALLING_AET = 0x01, 0x01, 0x03
_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")


def check_title(name: str, title: str) -> str:
    """The AE title without blanks around it.

    Raises
    ------
    UsageError
        If it is none.
    """
    stripped = title.strip()
    if not stripped or not _TITLE.fullmatch(stripped):
        raise UsageError(
            f"`{name}`: {title!r} is no AE title; give 1 to 16 ASCII characters without backslash"
        )
    return stripped


@dataclass(frozen=True)
class Peer:
    """Who may send.

    Attributes
    ----------
    title
        Calling AE title.
    host
        Its IP address; None for any.
    """

    title: str
    host: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``"AET"`` or ``"AET@ADDRESS"``.

        Raises
        ------
        UsageError
            If it is neither.
        """
        title, at, host = text.partition("@")
        if at:
            try:
                host = _plain(host)
            except ValueError as error:
                raise UsageError(f"`allow`: {text!r}: {error}; give AET@ADDRESS") from error
        return cls(check_title("allow", title), host if at else None)

    def matches(self, title: str, host: str) -> bool:
        """Whether a sender is this one."""
        return title == self.title and self.host in (None, _plain(host))


def _plain(host: str) -> str:
    """An address as it is compared: one of IPv4 that came by IPv6 is one of IPv4."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


@dataclass(frozen=True)
class Listening:
    """How to listen.

    Attributes
    ----------
    host, port
        Address to bind to, and port; 0 for a free one.
    ae_title
        Own AE title.
    allow
        Who may send; empty for anyone, which only loopback allows.
    require_title
        Whether senders must call the own AE title.
    max_pdu
        Largest PDU in bytes.
    max_object
        Largest object in bytes.
    max_associations
        Largest number of senders at the same time.
    timeout
        Seconds without any data after which a connection is closed.
    certificate, key
        Files for TLS; None for none.
    client_ca
        File with the issuers of senders' certificates; None to ask for none.

    Raises
    ------
    UsageError
        If a setting is out of range or contradicts another.
    """

    host: str = "127.0.0.1"
    port: int = 11112
    ae_title: str = "CNNRES"
    allow: tuple[Peer, ...] = ()
    require_title: bool = False
    max_pdu: int = 1 << 17
    max_object: int = 1 << 29
    max_associations: int = 8
    timeout: float = 60.0
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None

    def __post_init__(self) -> None:
        check_title("ae_title", self.ae_title)
        for name, value, least, most in (
            ("port", self.port, 0, 65535),
            ("max_pdu", self.max_pdu, _SMALLEST_PDU, _LARGEST_PDU),
            ("max_object", self.max_object, 1, 1 << 40),
            ("max_associations", self.max_associations, 1, 1000),
            ("timeout", self.timeout, 0.1, 86400),
        ):
            if not least <= value <= most:
                raise UsageError(f"`{name}` is {value}; give {least} to {most}")
        check_pair(self.certificate, self.key)
        if self.client_ca is not None and self.certificate is None:
            raise UsageError(
                "senders' certificates are only asked for with TLS: give a certificate"
            )
        if not self.allow and not self._is_loopback():
            raise UsageError(
                f"{self.host}: other machines may send there; say which with `allow`, "
                "as AET or AET@ADDRESS"
            )

    def _is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError as error:
            raise UsageError(f"`host`: {error}; give an address of this machine") from error

    def tls(self) -> LateHandshake | None:
        """The TLS settings; None without.

        Raises
        ------
        UsageError
            If a file cannot be used.
        """
        if self.certificate is None:
            return None
        return LateHandshake(server_context(self.certificate, self.key, self.client_ca))


class Receiver:
    """Listens while it is used as a context manager.

    Parameters
    ----------
    listening
        How to listen.
    store
        Where instances are kept.
    health
        Told of what happens.
    """

    def __init__(self, listening: Listening, store: Store, health: Health) -> None:
        self._listening = listening
        self._store = store
        self._health = health

    @contextlib.contextmanager
    def listen(self) -> Iterator[int]:
        """Listen inside the context; yields the port.

        Raises
        ------
        OutputError
            If the address cannot be listened on.
        """
        require_pynetdicom()
        from pynetdicom import AE, evt

        settings, entity = self._listening, AE(ae_title=self._listening.ae_title)
        for sop_class, syntaxes in _contexts():
            entity.add_supported_context(sop_class, syntaxes)
        entity.maximum_pdu_size = settings.max_pdu
        entity.maximum_associations = settings.max_associations
        entity.require_called_aet = settings.require_title
        entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = settings.timeout
        handlers: list[tuple[Any, Callable[[Any], Any]]] = [
            (evt.EVT_CONN_OPEN, self._bound),
            (evt.EVT_REQUESTED, self._check_peer),
            (evt.EVT_REJECTED, lambda _: self._health.count("association rejected")),
            (evt.EVT_ABORTED, lambda _: self._health.count("association aborted")),
            (evt.EVT_RELEASED, lambda event: self._store.end(id(event.assoc), released=True)),
            (evt.EVT_CONN_CLOSE, lambda event: self._store.end(id(event.assoc), released=False)),
            (evt.EVT_C_ECHO, lambda _: SUCCESS),
            (evt.EVT_C_STORE, self._receive),
        ]
        address, tls = (settings.host, settings.port), settings.tls()
        try:
            server = entity.start_server(
                address,
                block=False,
                ssl_context=tls,
                evt_handlers=handlers,
            )
        except (OSError, OverflowError) as error:
            raise OutputError(
                f"{settings.host}:{settings.port} cannot be listened on ({error}); choose "
                "another `port` or `host`",
                code=ErrorCode.SERVICE_PORT,
            ) from error
        # It would print a traceback.
        server.handle_error = lambda *_: self._health.count("connection failed")
        try:
            yield int(server.server_address[1])
        finally:
            entity.shutdown()

    def _receive(self, event: Any) -> int:
        from pynetdicom.dsutils import encode_file_meta

        event.assoc.dul.socket.recv.restart()
        request = event.request
        instance = Instance(
            str(request.AffectedSOPClassUID or ""),
            str(request.AffectedSOPInstanceUID or ""),
            str(event.context.transfer_syntax),
            _PREAMBLE + encode_file_meta(event.file_meta),
            b"" if request.DataSet is None else request.DataSet.getvalue(),
        )
        status, is_new = self._store.put(instance, id(event.assoc))
        if status == SUCCESS:
            self._health.count("object received" if is_new else "object received again")
        else:
            kind = "not understood" if status == NOT_UNDERSTOOD else "refused"
            self._health.count(f"object {kind}")
        return status

    def _check_peer(self, event: Any) -> None:
        """Reject a sender that is not allowed."""
        association = event.assoc
        title = str(association.requestor.primitive.calling_ae_title).strip()
        host = association.requestor.address
        allow = self._listening.allow
        if allow and not any(peer.matches(title, host) for peer in allow):
            self._health.count("association not allowed")
            association.acse.send_reject(_REJECTED_PERMANENTLY, _BY_SERVICE_USER, _CALLING_AET)
            association.kill()

    def _bound(self, event: Any) -> None:
        """Have a connection closed that sends larger PDUs or objects, or stops in the middle."""
        connection = event.assoc.dul.socket
        most = _CONNECTIONS * self._listening.max_associations
        if len(event.assoc.ae.active_associations) >= most:
            self._health.count("connection over a limit")
            connection.close()
            return
        connection.socket.settimeout(self._listening.timeout)
        exceeded = lambda: self._health.count("connection over a limit")  # noqa: E731
        connection.recv = _BoundedReading(connection, self._listening, exceeded)


class _BoundedReading:
    """Reads from a connection, up to limits; pynetdicom itself reads what is announced.

    It reads the header of a PDU, and then the rest at once.
    """

    def __init__(self, connection: Any, settings: Listening, exceeded: Callable[[], None]) -> None:
        self._connection = connection
        self._receive: Callable[[int], bytearray] = connection.recv
        self._settings = settings
        self._exceeded = exceeded
        self._is_header = True
        self._kind = 0
        self._held = 0

    def restart(self) -> None:
        """Start to count anew, for the next object."""
        self._held = 0

    def __call__(self, count: int) -> bytearray:
        if self._is_header:
            header = self._read(count)
            self._kind = header[0] if header else 0
            self._is_header = len(header) < _PDU_HEADER_BYTES
            return header
        self._is_header = True
        most = self._settings.max_pdu if self._kind == _P_DATA else _LARGEST_OTHER_PDU
        self._held += count
        if count > most or self._held > self._settings.max_object + most:
            self._exceeded()
            raise OSError("more than is allowed")
        return self._read(count)

    def _read(self, count: int) -> bytearray:
        acknowledge_at_once(self._connection.socket)
        return self._receive(count)


def _contexts() -> Iterator[tuple[str, list[str]]]:
    """What may be sent, and how it may be encoded."""
    from pynetdicom import ALL_TRANSFER_SYNTAXES
    from pynetdicom.sop_class import Verification

    yield Verification, list(ALL_TRANSFER_SYNTAXES)
    for sop_class in STORED:
        yield sop_class, list(ALL_TRANSFER_SYNTAXES)
