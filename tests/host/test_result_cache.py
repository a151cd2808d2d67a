import json
from pathlib import Path

import pytest

from cnnres_infer.host.cache import FOLDER
from cnnres_infer.host.digest import json_digest
from cnnres_infer.host.result_cache import ResultCache

CONDITIONS = {"cpu": "x", "versions": ["1", "2"]}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def results() -> ResultCache:
    return ResultCache("results")


def test_the_order_of_keys_does_not_matter() -> None:
    assert json_digest({"a": 1, "b": (2,)}) == json_digest({"b": [2], "a": 1})
    assert json_digest({"a": 1}) != json_digest({"a": "1"})


def test_a_value_is_found_only_under_its_conditions(results: ResultCache) -> None:
    assert results.get(CONDITIONS) is None
    assert results.put(CONDITIONS, {"seconds": 1.5}) == ""
    assert results.put("other", [1]) == ""
    assert results.get(CONDITIONS) == {"seconds": 1.5}
    assert results.get({**CONDITIONS, "cpu": "y"}) is None
    assert results.put(CONDITIONS, None) == ""
    found = sorted(results.entries(), key=str)
    assert found == [("other", [1]), (CONDITIONS, None)]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "[" * (1 << 15), '{"conditions": "b", "value": 1}']
)
def test_a_damaged_file_counts_as_missing(results: ResultCache, cache: Path, content: str) -> None:
    results.put("a", 1)
    (path,) = (cache / "results").iterdir()
    path.write_text(content)
    assert results.get("a") is None
    assert results.entries() == []
    assert results.put("a", 2) == ""
    assert results.get("a") == 2


def test_a_file_contains_its_conditions(results: ResultCache, cache: Path) -> None:
    results.put(CONDITIONS, 1)
    (path,) = (cache / "results").iterdir()
    assert json.loads(path.read_text()) == {"conditions": CONDITIONS, "value": 1}


def test_an_unusable_cache_is_not_an_error(results: ResultCache, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert str(cache) in results.put("a", 1)
    assert results.get("a") is None
    assert results.entries() == []
