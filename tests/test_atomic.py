import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnres_infer.atomic import write_all
from cnnres_infer.errors import OutputError, OutputExistsError


def refuse(number: int) -> object:
    def link(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return link


def test_all_are_written_and_folders_made(tmp_path: Path) -> None:
    first, second = tmp_path / "new" / "a", tmp_path / "new" / "b"
    write_all({first: b"1", second: b"2"})
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")
    assert sorted((tmp_path / "new").iterdir()) == [first, second]


def test_one_that_stands_stops_all(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_all({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_text() == "precious"


def test_another_process_that_is_faster_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def slow_link(source: Path, target: Path) -> None:
        if target.name == "b":
            target.write_text("theirs")
        link(source, target)

    monkeypatch.setattr(os, "link", slow_link)
    with pytest.raises(OutputExistsError):
        write_all({tmp_path / "a": b"mine", tmp_path / "b": b"mine"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_text() == "theirs"


def test_a_disk_that_fills_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        calls.append(path)
        if len(calls) == 2:
            write(path, content[:1])
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        write_all({tmp_path / "a": b"11", tmp_path / "b": b"22"})
    assert not list(tmp_path.iterdir())


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse(1))
    write_all({tmp_path / "a": b"1"})
    assert (tmp_path / "a").read_bytes() == b"1"
    with pytest.raises(OutputExistsError):
        write_all({tmp_path / "a": b"2"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_overwriting_removes_what_a_former_run_left(tmp_path: Path) -> None:
    for name in ("a", "stale"):
        (tmp_path / name).write_text("old")
    write_all({tmp_path / "a": b"new"}, overwrite=True, former=[tmp_path / "stale"])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        write_all({tmp_path / "file" / "a": b"1"})


def test_a_killed_writer_leaves_no_output(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from cnnres_infer.atomic import write_all\n"
        "Path.chmod = lambda *_: os.kill(os.getpid(), 9)\n"
        "write_all({Path(sys.argv[1]): b'content'})"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False)
    assert run.returncode == -9
    assert not (tmp_path / "a").exists()
