import sys
from pathlib import Path

import pytest

from cnnres_infer.host.cache import FOLDER, cache_folder

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners are POSIX's")


def test_the_variable_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "own"))
    assert cache_folder("checks", "x") == tmp_path / "own" / "checks" / "x"
    assert cache_folder("checks", "x").is_dir()


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/cnnres-infer"),
        ("linux", {}, "home/.cache/cnnres-infer"),
        ("darwin", {"XDG_CACHE_HOME": "xdg"}, "home/Library/Caches/cnnres-infer"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/cnnres-infer"),
    ],
)
def test_the_default_locations(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    platform: str,
    variables: dict[str, str],
    folder: str,
) -> None:
    for name in (FOLDER, "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder() == tmp_path / folder


@posix
def test_only_the_user_has_access(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "own"))
    for folder in (cache_folder("plans"), cache_folder()):
        assert folder.stat().st_mode & 0o777 == 0o700


@posix
def test_a_folder_that_others_can_write_to_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match="chmod 700"):
        cache_folder("plans")
