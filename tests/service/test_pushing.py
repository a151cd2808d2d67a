"""Results pushed to an archive on loopback, through the queue on disk."""

import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage, Verification

from cnnres_infer.batch import Job
from cnnres_infer.errors import UsageError
from cnnres_infer.service.build import Settings
from cnnres_infer.service.health import Health
from cnnres_infer.service.retry_queue import RetryQueue
from cnnres_infer.service.sender import Destination, Sender
from cnnres_infer.service.transport import ClientFiles, server_context
from tests.fakes.dicom import encode
from tests.service.certificates import certificates
from tests.service.studies import images


@contextmanager
def archive(
    answers: list[int],
    *kinds: str,
    port: int = 0,
    folder: Path | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[tuple[int, list[str]]]:
    """An archive that gives these answers, and success from then on."""
    stored: list[str] = []

    def store(event: Any) -> int:
        answer = answers.pop(0) if answers else 0
        if answer in (0, 0xB000):
            uid = str(event.request.AffectedSOPInstanceUID)
            if folder is not None:
                (folder / uid).write_bytes(event.encoded_dataset())
            stored.append(uid)
        return answer

    entity = AE(ae_title="PACS")
    for kind in kinds or (MRImageStorage,):
        entity.add_supported_context(kind)
    entity.add_supported_context(Verification)
    server = entity.start_server(
        ("127.0.0.1", port),
        block=False,
        ssl_context=tls,
        evt_handlers=[(evt.EVT_C_STORE, store)],
    )
    try:
        yield server.server_address[1], stored
    finally:
        server.shutdown()


class Pushing:
    def __init__(self, root: Path, *ports: int, tls: ClientFiles | None = None) -> None:
        scheme = "" if tls is None else "tls://"
        self.queue = RetryQueue(root, [f"{scheme}127.0.0.1:{port}/PACS" for port in ports])
        self.queue.open()
        self.health = Health(root)
        self.sender = Sender(self.queue, "CNNRES", self.health, tls)
        self.files = []
        for number, image in enumerate(images()[:2]):
            self.files.append(root / f"{number}_seg.dcm")
            self.files[-1].write_bytes(encode(image))
        self.files.append(root / "report.json")
        self.files[-1].write_text("{}")

    def add(self) -> None:
        self.queue.add_all(self.files, "study")

    def make_due(self) -> None:
        for path in (self.queue._pending).glob("*.json"):
            content = json.loads(path.read_text())
            path.write_text(json.dumps({**content, "next_try": "2020-01-01T00:00:00Z"}))


def test_an_object_that_was_answered_is_not_pushed_again(tmp_path: Path) -> None:
    with archive([0, 0xB000]) as (port, stored):
        pushing = Pushing(tmp_path, port)
        for _ in range(2):
            pushing.add()
            pushing.sender.push_due()
            assert len(stored) == 2, "the report is no DICOM"
    assert pushing.queue.pending() == []
    assert pushing.queue.sent_count() == 2
    assert pushing.health.events == {"object pushed": 2}


def test_a_refused_object_is_pushed_later(tmp_path: Path) -> None:
    with archive([0xA700, 0]) as (port, stored):
        pushing = Pushing(tmp_path, port)
        pushing.add()
        pushing.sender.push_due()
        (push,) = pushing.queue.pending()
        assert push.error == "the other side has answered 0xA700"
        assert push.attempts == 1
        pushing.sender.push_due()
        assert len(stored) == 1, "it is not due yet"
        pushing.make_due()
        pushing.sender.push_due()
        assert len(stored) == 2
    assert pushing.queue.pending() == []


def test_an_archive_that_is_away_is_tried_less_and_less_often(tmp_path: Path) -> None:
    with archive([]) as (port, _):
        pass
    pushing = Pushing(tmp_path, port)
    pushing.add()
    pauses = []
    for _ in range(10):
        pushing.make_due()
        pushing.sender.push_due()
        pauses.append(pushing.queue.pending()[0].next_try - time.time())
    # Each is measured a moment after it began.
    assert pauses == pytest.approx([5, 10, 20, 40, 80, 160, 320, 640, 900, 900], abs=2)
    with archive([], port=port) as (_, stored):
        pushing.make_due()
        pushing.sender.push_due()
        assert len(stored) == 2


def test_an_archive_without_this_class_says_so(tmp_path: Path) -> None:
    with archive([], "1.2.840.10008.5.1.4.1.1.2") as (port, _):
        pushing = Pushing(tmp_path, port)
        pushing.add()
        pushing.sender.push_due()
    errors = [push.error for push in pushing.queue.pending()]
    assert len(errors) == 2
    assert all(error and ("class" in error or "association" in error) for error in errors)


def test_every_archive_gets_every_object(tmp_path: Path) -> None:
    with archive([]) as (one, first), archive([0xC000]) as (two, second):
        pushing = Pushing(tmp_path, one, two)
        pushing.add()
        pushing.sender.push_due()
    assert (len(first), len(second)) == (2, 1)
    assert len(pushing.queue.pending()) == 1


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(tmp_path: Path, mutual: bool) -> None:
    certificate, key = certificates(tmp_path)
    with archive([], tls=server_context(certificate, key, certificate if mutual else None)) as (
        port,
        stored,
    ):
        own = (certificate, key) if mutual else (None, None)
        pushing = Pushing(tmp_path, port, tls=ClientFiles(certificate, *own))
        pushing.add()
        pushing.sender.push_due()
    assert len(stored) == 2
    assert pushing.queue.pending() == []


def test_an_archive_that_cannot_prove_who_it_is_gets_nothing(tmp_path: Path) -> None:
    for name, address in (("known", "127.0.0.1"), ("elsewhere", "10.1.2.3")):
        (tmp_path / name).mkdir()
        certificates(tmp_path / name, address)
    elsewhere, known = tmp_path / "elsewhere", tmp_path / "known"
    for served, trusted, reason in (
        (known, elsewhere, "verify failed"),
        (elsewhere, elsewhere, "not valid for"),
        (None, known, "TLS"),
    ):
        context = None
        if served is not None:
            context = server_context(served / "own.crt", served / "own.key", None)
        (root := tmp_path / f"area-{reason}").mkdir()
        with archive([], tls=context) as (port, stored):
            pushing = Pushing(root, port, tls=ClientFiles(trusted / "own.crt"))
            pushing.add()
            pushing.sender.push_due()
        assert stored == []
        errors = {push.error for push in pushing.queue.pending()}
        assert len(errors) == 1
        assert reason in str(errors)


def test_files_for_tls_that_are_of_no_use(tmp_path: Path) -> None:
    certificate, key = certificates(tmp_path)
    job = Job(out=tmp_path / "out", formats=("mask",))

    def settings(send_to: str, *files: Path | None) -> Settings:
        return Settings(tmp_path, job, 1.0, send_to=(send_to,), send_tls=ClientFiles(*files))

    assert settings("tls://pacs:2762/PACS", certificate, certificate, key).peers
    with pytest.raises(UsageError, match="tls://"):
        settings("pacs:104/PACS", certificate)
    with pytest.raises(UsageError, match="both"):
        settings("tls://pacs:2762/PACS", None, certificate)
    with pytest.raises(UsageError, match="cannot be used"):
        settings("tls://pacs:2762/PACS", key)


def test_a_file_that_was_removed_keeps_nothing_else_back(tmp_path: Path) -> None:
    with archive([]) as (port, stored):
        pushing = Pushing(tmp_path, port)
        pushing.add()
        pushing.files[0].unlink()
        pushing.sender.push_due()
    assert len(stored) == 1
    (push,) = pushing.queue.pending()
    assert push.error is not None
    assert "cannot be read" in push.error


def test_what_a_person_has_broken_is_skipped(tmp_path: Path) -> None:
    queue = RetryQueue(tmp_path)
    queue.open()
    (tmp_path / "outbox" / "pending" / "a.json").write_text("{")
    assert queue.pending() == []


@pytest.mark.parametrize(
    "text", ["pacs:104/PACS", "10.0.0.1:11112/A B", "[::1]:104/PACS", "tls://pacs:2762/PACS"]
)
def test_destinations(text: str) -> None:
    assert str(Destination.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "pacs", "pacs:104", "pacs/PACS", "pacs:0/PACS", "pacs:99999/PACS", "pacs:104/", ":1/A",
     "pacs:104/longer than sixteen", "PACS@pacs:104", "tls:pacs:104/PACS"],
)  # fmt: skip
def test_bad_destinations_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Destination.parse(text)
