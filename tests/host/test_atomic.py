import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cnnres_infer.errors import OutputError, OutputExistsError
from cnnres_infer.host import atomic
from cnnres_infer.host.atomic import check_free, exclusive, unfinished, write_all


def refuse(number: int) -> object:
    def link(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return link


def test_all_files_are_written_and_folders_created(tmp_path: Path) -> None:
    first, second = tmp_path / "new" / "a", tmp_path / "new" / "b"
    write_all({first: b"1", second: b"2"})
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")
    assert sorted((tmp_path / "new").iterdir()) == [first, second]


def test_an_existing_file_prevents_all_writes(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("precious")
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        write_all({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_text() == "precious"


def test_a_faster_process_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def slow_link(source: str, target: Path, **options: Any) -> None:
        if target.name == "b":
            target.write_text("theirs")
        link(source, target, **options)

    monkeypatch.setattr(os, "link", slow_link)
    with pytest.raises(OutputExistsError):
        write_all({tmp_path / "a": b"mine", tmp_path / "b": b"mine"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_text() == "theirs"


@pytest.mark.parametrize("nameless", [True, False])
def test_a_full_disk_leaves_nothing(tmp_path: Path, nameless: bool) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from cnnres_infer.host import atomic\n"
        "atomic._NAMELESS = atomic._NAMELESS if sys.argv[2] == 'True' else 0\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "folder = Path(sys.argv[1])\n"
        "atomic.write_all({folder / 'a': b'1', folder / 'b': bytes(10_000)})"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(nameless)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "OutputError" in done.stderr
    assert "cannot be written (File too large)" in done.stderr
    assert not list(tmp_path.iterdir())


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_NAMELESS", 0)
    monkeypatch.setattr(os, "link", refuse(1))
    write_all({tmp_path / "a": b"1"})
    assert (tmp_path / "a").read_bytes() == b"1"
    with pytest.raises(OutputExistsError):
        write_all({tmp_path / "a": b"2"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_overwriting_removes_files_of_an_earlier_run(tmp_path: Path) -> None:
    for name in ("a", "stale"):
        (tmp_path / name).write_text("old")
    write_all({tmp_path / "a": b"new"}, overwrite=True, former=[tmp_path / "stale"])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        write_all({tmp_path / "file" / "a": b"1"})


KILLED = (
    "import os, sys; from pathlib import Path; from cnnres_infer.host import atomic\n"
    "atomic._NAMELESS = atomic._NAMELESS if sys.argv[2] == 'True' else 0\n"
    "atomic._Staged.fill = lambda *_: os.kill(os.getpid(), 9)\n"
    "atomic.write_all({Path(sys.argv[1]): b'content'})"
)


def killed_writer(path: Path, nameless: bool) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED, str(path), str(nameless)], check=False)
    assert run.returncode == -9


@pytest.mark.skipif(not atomic._NAMELESS, reason="this system has no nameless files")
def test_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    killed_writer(tmp_path / "a", nameless=True)
    assert not list(tmp_path.iterdir())


def test_the_next_run_removes_leftovers_of_a_killed_writer(tmp_path: Path) -> None:
    killed_writer(tmp_path / "a", nameless=False)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".cnnres-part")
    with exclusive(tmp_path, [tmp_path / "a"]):
        write_all({tmp_path / "a": b"1"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_other_hidden_files_are_kept(tmp_path: Path) -> None:
    for name in (".movie.part", ".a.part", ".a.b.cnnres-part"):
        (tmp_path / name).write_text("precious")
    killed_writer(tmp_path / "ab", nameless=False)
    others = set(tmp_path.iterdir())
    killed_writer(tmp_path / "a", nameless=False)
    assert len(unfinished([tmp_path / "a"])) == 1
    with exclusive(tmp_path, [tmp_path / "a"]):
        pass
    assert set(tmp_path.iterdir()) == others


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("failing", ["a", "b", "c"])
@pytest.mark.parametrize("former", [True, False])
def test_a_failed_overwrite_keeps_the_existing_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nameless: bool,
    failing: str,
    former: bool,
) -> None:
    if not nameless:
        monkeypatch.setattr(atomic, "_NAMELESS", 0)
    paths = {name: tmp_path / name for name in "abc"}
    for name in "ac":
        paths[name].write_text("old")
    replace = Path.replace
    failed: list[Path] = []

    def full(self: Path, target: Path) -> Path:
        if target == paths[failing] and not failed:
            failed.append(target)
            raise OSError(28, os.strerror(28))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_all(
            dict.fromkeys(paths.values(), b"new"),
            overwrite=True,
            former=paths.values() if former else (),
        )
    assert {path.name for path in tmp_path.iterdir()} == {"a", "c"}
    assert paths["c"].read_text() == "old"
    assert paths["a"].read_text() == ("old" if former or failing == "a" else "new")


def test_a_folder_in_place_of_a_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "b" / "inside").mkdir(parents=True)
    new = {tmp_path / "a": b"new", tmp_path / "b": b"new"}
    with pytest.raises(OutputError, match="directory"):
        write_all(new, overwrite=True, former=reversed(list(new)))
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
    assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "b" / "inside").is_dir()


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
def test_permissions_follow_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool, overwrite: bool
) -> None:
    if not nameless:
        monkeypatch.setattr(atomic, "_NAMELESS", 0)
    before = os.umask(0o027)
    try:
        write_all({tmp_path / "a": b"1"}, overwrite)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_name_that_is_too_long_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="too long"):
        check_free([tmp_path / ("a" * 300)], overwrite=False)
