"""The listener, with real senders on loopback: what it takes, from whom, and how much."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    ComprehensiveSRStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    Verification,
)

from cnnres_infer.errors import OutputError, UsageError
from cnnres_infer.service.health import Health
from cnnres_infer.service.receiver import Listening, Peer, Receiver
from cnnres_infer.service.silence import require_pynetdicom
from cnnres_infer.service.state import open_area
from cnnres_infer.service.store import Store
from tests.service.certificates import certificates
from tests.service.studies import images, wait_for

Listen = Callable[..., Any]


@pytest.fixture
def listen(tmp_path: Path) -> Listen:
    """Listens on a free port; yields the port and what was counted."""

    @contextmanager
    def listening(min_free: int = 0, **settings: Any) -> Iterator[tuple[int, Health]]:
        root = tmp_path / "area"
        with open_area(root, root / "incoming") as area:
            health = Health(root)
            how = Listening(**{"port": 0, **settings})
            store = Store(area, min_free)
            store.recover()
            receiver = Receiver(how, store, health)
            with receiver.listen() as port:
                yield port, health

    return listening


def associate(
    port: int, *kinds: str, title: str = "SCANNER", called: str = "CNNRES", **options: Any
) -> Any:
    entity = AE(ae_title=title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 5
    for kind in kinds or (MRImageStorage, Verification):
        entity.add_requested_context(kind)
    return entity.associate("127.0.0.1", port, ae_title=called, **options)


def send(port: int, *sent: FileDataset, **options: Any) -> list[int | None]:
    association = associate(port, **options)
    assert association.is_established
    statuses = [getattr(association.send_c_store(image), "Status", None) for image in sent]
    association.release()
    return statuses


def test_objects_are_kept_and_answered_once_kept(tmp_path: Path, listen: Listen) -> None:
    sent = images()[:3]
    with listen() as (port, health):
        association = associate(port)
        assert association.send_c_echo().Status == 0
        association.release()
        assert send(port, *sent) == [0, 0, 0]
        assert len(list((tmp_path / "area" / "incoming").rglob("*.dcm"))) == 3
        assert send(port, *sent) == [0, 0, 0]
    assert health.events == {"object received": 3, "object received again": 3}
    assert len(list((tmp_path / "area").rglob("*.dcm"))) == 3
    receiving = tmp_path / "area" / "receiving"
    assert list(receiving.iterdir()) == []
    with listen() as (port, _):
        association = associate(port)
        association.send_c_store(sent[0])
        association.abort()
        time.sleep(0.5)
        assert len(list(receiving.iterdir())) == 1, "it has not said that this was all"
        assert send(port, *sent) == [0, 0, 0]
        wait_for(lambda: list(receiving.iterdir()) == [])
    (folder,) = (tmp_path / "area" / "incoming").iterdir()
    assert b"DICM" in next(folder.iterdir()).read_bytes()[:132]


@pytest.mark.parametrize(
    "kind",
    [
        MRImageStorage,
        EnhancedMRImageStorage,
        ComprehensiveSRStorage,
        SecondaryCaptureImageStorage,
        "1.3.12.2.1107.5.9.1",
    ],
)
def test_compressed_syntaxes_of_all_classes_are_taken(listen: Listen, kind: str) -> None:
    entity = AE()
    syntaxes = (RLELossless, JPEGLosslessSV1, JPEG2000Lossless)
    for syntax in syntaxes:
        entity.add_requested_context(kind, syntax)
    with listen() as (port, _):
        association = entity.associate("127.0.0.1", port)
        accepted = {context.transfer_syntax[0] for context in association.accepted_contexts}
        association.release()
    assert accepted == set(syntaxes)


@pytest.mark.parametrize(
    ("allow", "title", "is_allowed"),
    [
        ("SCANNER", "SCANNER", True),
        ("SCANNER", "OTHER", False),
        ("SCANNER@127.0.0.1", "SCANNER", True),
        ("SCANNER@10.1.2.3", "SCANNER", False),
    ],
)
def test_only_peers_that_are_allowed_may_send(
    listen: Listen, allow: str, title: str, is_allowed: bool
) -> None:
    with listen(allow=(Peer.parse(allow),)) as (port, health):
        association = associate(port, title=title)
        assert association.is_established is is_allowed
        assert association.is_rejected is not is_allowed
        if is_allowed:
            association.release()
    assert health.events["association not allowed"] == (not is_allowed)


def test_the_called_title_is_checked_if_asked_for(listen: Listen) -> None:
    with listen(require_title=True) as (port, _):
        assert associate(port, called="ANY-SCP").is_rejected
        assert send(port, images()[0]) == [0]
    with listen() as (port, _):
        assert send(port, images()[0], called="ANY-SCP") == [0]


def test_a_full_disk_is_answered(tmp_path: Path, listen: Listen) -> None:
    with listen(min_free=1 << 60) as (port, health):
        assert send(port, images()[0]) == [0xA700]
    assert health.events["object refused"] == 1
    assert list((tmp_path / "area" / "incoming").iterdir()) == []


def test_larger_objects_than_allowed_close_the_connection(tmp_path: Path, listen: Listen) -> None:
    small, large = images()[:2]
    large.add_new(0x00204000, "LT", "x" * 50000)
    with listen(max_object=20000, max_pdu=4096) as (port, health):
        assert send(port, small, small, small) == [0, 0, 0], "each object counts by itself"
        assert send(port, large) == [None]
        assert send(port, small) == [0]
    assert health.events["connection over a limit"] == 1
    assert len(list((tmp_path / "area").rglob("*.dcm"))) == 1


def test_larger_pdus_than_announced_close_the_connection(listen: Listen) -> None:
    with listen(max_pdu=4096) as (port, health):
        association = associate(port)
        # A PDU of 4 GB would be read into memory as it comes.
        association.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, 0xFFFFFFF0))
        with socket.create_connection(("127.0.0.1", port), 5) as plain:
            plain.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFF0))
            assert plain.recv(1) == b""
        association.join(5)
        assert not association.is_established
        assert send(port, images()[0]) == [0]
    assert health.events["connection over a limit"] == 2


def test_more_associations_than_allowed_are_rejected(listen: Listen) -> None:
    with listen(max_associations=1) as (port, _):
        first = associate(port)
        assert first.is_established
        assert associate(port).is_rejected
        first.release()


@pytest.mark.slow
def test_connections_that_ask_for_nothing_do_not_pile_up(listen: Listen) -> None:
    with listen(max_associations=1, timeout=2.0) as (port, health), ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5)) for _ in range(8)
        ]
        wait_for(lambda: health.events["connection over a limit"] == 4)
        assert silent[-1].recv(1) == b""
        # Once those have been closed, there is room again. An attempt takes some itself.
        time.sleep(3)

        def is_free() -> bool:
            time.sleep(1)
            return bool(associate(port).is_established)

        wait_for(is_free)


def test_a_silent_connection_is_closed(listen: Listen) -> None:
    with (
        listen(timeout=0.5) as (port, _),
        socket.create_connection(("127.0.0.1", port), 5) as silent,
        socket.create_connection(("127.0.0.1", port), 5) as stopped,
    ):
        stopped.sendall(b"\x01\x00\x00")
        assert silent.recv(100) in (b"", struct.pack(">BBLBBBB", 7, 0, 4, 0, 0, 0, 0))
        assert stopped.recv(1) in (b"", b"\x07")


def test_what_is_no_dicom_does_no_harm(listen: Listen) -> None:
    with listen() as (port, _):
        with socket.create_connection(("127.0.0.1", port), 5) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            stranger.recv(100)
        assert send(port, images()[0]) == [0]


def test_nothing_about_a_patient_is_logged(
    listen: Listen, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    image = images()[0]
    image.add_new(0x00080012, "DA", "no date: SECRET")
    with caplog.at_level(0), listen() as (port, _):
        send(port, image)
    said = caplog.text + "".join(capfd.readouterr())
    assert "SECRET" not in said.upper()


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(tmp_path: Path, listen: Listen, mutual: bool) -> None:
    certificate, key = certificates(tmp_path)
    context = ssl.create_default_context(cafile=str(certificate))
    if mutual:
        context.load_cert_chain(certificate, key)
    settings = {"certificate": certificate, "key": key, "timeout": 2.0}
    settings |= {"client_ca": certificate} if mutual else {}
    with listen(**settings) as (port, _):
        # It says nothing, and keeps nobody out.
        with socket.create_connection(("127.0.0.1", port)):
            assert send(port, images()[0], tls_args=(context, "127.0.0.1")) == [0]
        assert not associate(port).is_established, "without TLS"
        if mutual:
            anyone = ssl.create_default_context(cafile=str(certificate))
            assert not associate(port, tls_args=(anyone, "127.0.0.1")).is_established


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": 70000}, "port"),
        ({"port": -1}, "port"),
        ({"ae_title": ""}, "AE title"),
        ({"ae_title": "longer than sixteen"}, "AE title"),
        ({"ae_title": "back\\slash"}, "AE title"),
        ({"max_pdu": 0}, "max_pdu"),
        ({"max_pdu": 1 << 30}, "max_pdu"),
        ({"max_object": 0}, "max_object"),
        ({"max_associations": 0}, "max_associations"),
        ({"timeout": 0.0}, "timeout"),
        ({"host": "0.0.0.0"}, "allow"),
        ({"host": "::"}, "allow"),
        ({"host": "somewhere"}, "host"),
        ({"certificate": Path("a")}, "key"),
        ({"client_ca": Path("a")}, "TLS"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Listening(**settings)


def test_other_machines_may_send_if_they_are_named() -> None:
    assert Listening(host="0.0.0.0", allow=(Peer.parse("SCANNER@10.0.0.7"),)).host == "0.0.0.0"


def test_an_address_of_ipv4_is_known_however_it_comes() -> None:
    peer = Peer.parse("SCANNER@10.0.0.7")
    assert peer.matches("SCANNER", "::ffff:10.0.0.7")
    assert not peer.matches("SCANNER", "::ffff:10.0.0.8")
    assert Peer.parse("SCANNER@::FFFF:10.0.0.7") == peer
    assert Peer.parse("SCANNER@fe80::1").matches("SCANNER", "fe80::1%eth0")


def test_connections_that_break_print_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", others.append)
    require_pynetdicom()
    provider = Association(AE(), "requestor").dul
    # It cannot be closed in the state in which it starts.
    provider.event_queue.put("Evt17")
    provider.start()
    provider.join(5)
    assert not provider.is_alive()
    assert others == []
    assert capfd.readouterr().err == ""
    ours = threading.Thread(target=lambda: [][0])
    ours.start()
    ours.join()
    assert len(others) == 1, "the errors of our own threads are printed"


@pytest.mark.parametrize("text", ["", "@1.2.3.4", "AET@", "AET@host.name", "A\\B"])
def test_a_bad_peer_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Peer.parse(text)


def test_files_for_tls_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("nothing")
    with pytest.raises(UsageError, match="TLS"):
        Listening(certificate=tmp_path / "a", key=tmp_path / "a").tls()


def test_a_port_in_use_is_refused(listen: Listen, tmp_path: Path) -> None:
    with listen() as (port, health), open_area(tmp_path / "other") as area:
        second = Receiver(Listening(port=port), Store(area, 0), health)
        with pytest.raises(OutputError, match="cannot be listened on") as caught, second.listen():
            pass
    assert caught.value.code == "E-SERVICE-PORT"


def test_without_pynetdicom_it_says_what_to_install(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynetdicom", None)
    with pytest.raises(UsageError, match="service") as caught, listen():
        pass
    assert caught.value.code == "E-SERVICE-EXTRA"


def test_events_of_pynetdicom_that_are_used_exist() -> None:
    for name in ("EVT_CONN_OPEN", "EVT_REQUESTED", "EVT_REJECTED", "EVT_ABORTED", "EVT_C_STORE"):
        assert hasattr(evt, name)
