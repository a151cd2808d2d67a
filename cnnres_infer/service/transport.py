"""What lies below DICOM: TLS, and when packets are sent."""

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnres_infer.errors import UsageError

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


def acknowledge_at_once(connection: socket.socket) -> None:
    """Acknowledge the next packets as they come.

    Linux may take 40 ms to acknowledge the command of an object, and its sender may wait
    for that before it sends the rest.
    """
    if _QUICKACK is not None:
        connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def send_at_once(connection: socket.socket) -> None:
    """Do not wait with an object until its command is acknowledged; see `acknowledge_at_once`."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@dataclass(frozen=True)
class ClientFiles:
    """Files for TLS to archives.

    Attributes
    ----------
    ca
        File with the issuers of archives' certificates; None for those that the system trusts.
    certificate, key
        Files to prove who we are, for archives that ask; None for none.

    Raises
    ------
    UsageError
        If a certificate comes without its key, or the key without it.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        check_pair(self.certificate, self.key)

    @property
    def is_given(self) -> bool:
        """Whether there is any file."""
        return (self.ca, self.certificate) != (None, None)

    def context(self) -> ssl.SSLContext:
        """The settings, with the archive's certificate and the host that it names checked.

        Raises
        ------
        UsageError
            If a file cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:
            raise _unusable(error) from error
        return context


def server_context(certificate: Path, key: Path | None, client_ca: Path | None) -> ssl.SSLContext:
    """The settings of the listener; see `cnnres_infer.service.receiver.Listening`.

    Raises
    ------
    UsageError
        If a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:
        raise _unusable(error) from error
    return context


def check_pair(certificate: Path | None, key: Path | None) -> None:
    """Raise `UsageError` if only one of the two is given."""
    if (certificate is None) != (key is None):
        raise UsageError("TLS needs both a certificate and its key: give both, or neither")


class LateHandshake:
    """TLS of a listener whose handshake is left to the thread of the connection.

    pynetdicom shakes hands where it accepts connections, and one that stays silent
    there would keep all others out.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def wrap_socket(self, connection: Any, server_side: bool) -> ssl.SSLSocket:
        return self._context.wrap_socket(
            connection, server_side=server_side, do_handshake_on_connect=False
        )


class NotedHandshake:
    """TLS of one connection to an archive, which tells why it failed; pynetdicom only logs it.

    Attributes
    ----------
    failure
        Why there is no connection; None if that has nothing to do with TLS.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.failure: str | None = None

    def wrap_socket(
        self, connection: Any, server_side: bool, server_hostname: str
    ) -> ssl.SSLSocket:
        wrapped = self._context.wrap_socket(
            connection, server_side=server_side, server_hostname=server_hostname
        )
        shake_hands = wrapped.do_handshake

        def noted(block: bool = False) -> None:
            try:
                shake_hands(block)
            except OSError as error:
                self.failure = str(error)
                raise

        wrapped.do_handshake = noted  # type: ignore[method-assign]
        return wrapped


def _unusable(error: Exception) -> UsageError:
    return UsageError(f"the files for TLS cannot be used ({error})")
