import json
from pathlib import Path

import pytest

from cnnres_infer.engines.compiled import CompiledCache, SealedFolder

CONDITIONS = {"network": "a", "threads": 2}


@pytest.fixture
def cache(own_cache: Path) -> CompiledCache:
    return CompiledCache("compiled")


def test_what_was_put_is_found_under_the_same_conditions_only(cache: CompiledCache) -> None:
    stored = cache.put(CONDITIONS, b"code")
    assert stored is not None
    assert cache.get(dict(reversed(CONDITIONS.items()))) == stored
    assert cache.get({**CONDITIONS, "threads": 3}) is None


def test_a_later_network_replaces_an_earlier_one(cache: CompiledCache, own_cache: Path) -> None:
    cache.put(CONDITIONS, b"code")
    cache.put(CONDITIONS, b"newer code")
    found = cache.get(CONDITIONS)
    assert found is not None
    assert found.content == b"newer code"
    assert len(list(own_cache.rglob("*.blob"))) == 1


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".blob", b"cods"),
        (".blob", b""),
        (".json", b"[]"),
        (".json", b"{}"),
        (".json", b"not JSON"),
        (".json", b"[" * (1 << 15)),
        (".json", b'{"conditions": {"network": "b"}, "value": ""}'),
    ],
)
def test_what_is_not_as_it_was_stored_is_not_found(
    cache: CompiledCache, own_cache: Path, suffix: str, content: bytes
) -> None:
    cache.put(CONDITIONS, b"code")
    (path,) = own_cache.rglob(f"*{suffix}")
    path.write_bytes(content)
    assert cache.get(CONDITIONS) is None


def test_without_a_cache_nothing_is_found_or_stored(cache: CompiledCache, own_cache: Path) -> None:
    own_cache.parent.mkdir(parents=True, exist_ok=True)
    own_cache.write_text("no folder")
    assert cache.put(CONDITIONS, b"code") is None
    assert cache.get(CONDITIONS) is None


def test_a_sealed_folder_keeps_only_what_the_runtime_left(tmp_path: Path) -> None:
    path = tmp_path / "engines"
    path.mkdir()
    (path / "old").write_bytes(b"from before there were seals")
    folder = SealedFolder(path)
    folder.remove_strangers()
    assert list(path.iterdir()) == []
    for name in ("kept", "changed"):
        (path / name).write_bytes(b"engine")
    folder.seal()
    (path / "changed").write_bytes(b"other engine")
    (path / "new").write_bytes(b"engine")
    (path / "link").symlink_to(path / "kept")
    SealedFolder(path).remove_strangers()
    assert [each.name for each in path.iterdir()] == ["kept"]
    for seal in (json.dumps(["kept"]), "[" * (1 << 15)):
        (path / "kept").write_bytes(b"engine")
        (tmp_path / "engines.json").write_text(seal)
        SealedFolder(path).remove_strangers()
        assert list(path.iterdir()) == []


def test_a_sealed_folder_keeps_nothing_but_regular_files(tmp_path: Path) -> None:
    path = tmp_path / "engines"
    (path / "folder" / "nested").mkdir(parents=True)
    (path / "link").symlink_to(tmp_path)
    folder = SealedFolder(path)
    folder.seal()
    folder.remove_strangers()
    assert list(path.iterdir()) == []
    assert tmp_path.exists()


def test_two_processes_may_remove_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "engines"
    path.mkdir()
    (path / "old").write_bytes(b"engine")
    unlink = Path.unlink

    def late(self: Path, missing_ok: bool = False) -> None:
        unlink(self)
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", late)
    SealedFolder(path).remove_strangers()
    assert list(path.iterdir()) == []
    path.rmdir()
    SealedFolder(path).seal()
