"""The viewer of the HTML report is fetched when the package is built."""

import base64
import hashlib
import io
import json
import socket
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import hatch_build
from hatch_build import FOLDER, REGISTRY, REQUIRED, ViewerError, ViewerHook, fetch_viewer

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = b"// a viewer\n"
UNREACHABLE = "http://127.0.0.1:9"


class Registry(SimpleHTTPRequestHandler):
    """Serves a folder, and counts what was asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        super().do_GET()

    def log_message(self, *message: Any) -> None:
        pass


def packed(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("package/dist/viewer.js")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """An npm registry with one package, whose archive is ``served/@a/viewer/-/viewer-1.tgz``."""
    archive = tmp_path / "served" / "@a" / "viewer" / "-" / "viewer-1.tgz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(packed(PROGRAM))
    Registry.asked = []
    handler = partial(Registry, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def folder(tmp_path: Path, registry: str) -> Path:
    """The folder of the viewer in a checkout, which expects the package of the registry."""
    archive = (tmp_path / "served" / "@a" / "viewer" / "-" / "viewer-1.tgz").read_bytes()
    source = {
        "package": "@a/viewer",
        "version": "1",
        "integrity": f"sha512-{base64.b64encode(hashlib.sha512(archive).digest()).decode()}",
        "member": "package/dist/viewer.js",
        "sha256": hashlib.sha256(PROGRAM).hexdigest(),
    }
    folder = tmp_path / "checkout" / FOLDER
    folder.mkdir(parents=True)
    (folder / "source.json").write_text(json.dumps(source))
    return folder


class App:
    """Collects the warnings of a build."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def display_warning(self, message: str) -> None:
        self.warnings.append(message)


def build(folder: Path) -> list[str]:
    """Run the hook on a checkout; its warnings."""
    app, root = App(), str(folder.parents[len(FOLDER.parts) - 1])
    hook = ViewerHook(root, {}, None, None, root, "wheel", app)  # type: ignore[arg-type]
    hook.initialize("standard", {})
    return app.warnings


def test_the_viewer_is_fetched_once(folder: Path, registry: str) -> None:
    path = fetch_viewer(folder, registry)
    assert path.read_bytes() == PROGRAM
    assert Registry.asked == ["/@a/viewer/-/viewer-1.tgz"]
    assert fetch_viewer(folder, UNREACHABLE) == path
    path.write_bytes(b"altered")
    fetch_viewer(folder, f"{registry}/")
    assert path.read_bytes() == PROGRAM
    assert len(Registry.asked) == 2
    assert {each.name for each in folder.iterdir()} == {"source.json", "viewer.js"}


def test_another_package_is_refused(folder: Path, registry: str, tmp_path: Path) -> None:
    (archive,) = (tmp_path / "served").rglob("*.tgz")
    archive.write_bytes(packed(b"// another\n"))
    with pytest.raises(ViewerError, match="not the package of that version"):
        fetch_viewer(folder, registry)
    assert [each.name for each in folder.iterdir()] == ["source.json"]


def test_another_file_in_the_right_package_is_refused(folder: Path, registry: str) -> None:
    source = json.loads((folder / "source.json").read_text())
    (folder / "source.json").write_text(json.dumps({**source, "sha256": "0" * 64}))
    with pytest.raises(ViewerError, match="another hash"):
        fetch_viewer(folder, registry)
    assert [each.name for each in folder.iterdir()] == ["source.json"]


@pytest.mark.parametrize("where", [UNREACHABLE, "file:///etc", "nonsense"])
def test_a_build_goes_on_without_the_viewer_unless_it_is_required(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.delenv(REQUIRED, raising=False)
    monkeypatch.setenv(REGISTRY, where)
    (warning,) = build(folder)
    assert "NO interactive viewer" in warning
    assert f"{REQUIRED}=1" in warning
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(ViewerError):
        build(folder)


def test_a_build_uses_the_registry_that_npm_is_told(
    folder: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REGISTRY, registry)
    monkeypatch.setenv(REQUIRED, "1")
    assert build(folder) == []
    assert (folder / "viewer.js").read_bytes() == PROGRAM


def test_an_endless_answer_is_refused(
    folder: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hatch_build, "_MAX_BYTES", 10)
    with pytest.raises(ViewerError, match="more than 10 bytes"):
        fetch_viewer(folder, registry)


def test_an_answer_that_is_no_http_is_refused(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(1 << 16)
                connection.sendall(b"nonsense\r\n\r\n")

        thread = Thread(target=answer)
        thread.start()
        with pytest.raises(ViewerError, match="cannot be read"):
            fetch_viewer(folder, address)
        thread.join()


def test_what_is_fetched_is_pinned_and_not_in_git() -> None:
    source = json.loads((ROOT / FOLDER / "source.json").read_text(encoding="utf-8"))
    assert len(base64.b64decode(source["integrity"].removeprefix("sha512-"))) == 64
    assert len(bytes.fromhex(source["sha256"])) == 32
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert f"/{FOLDER.as_posix()}/*.js" in ignored
