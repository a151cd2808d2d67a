"""Claims: one owner at a time, also after crashes and between machines."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnres_infer.cohort import claims
from cnnres_infer.cohort.claims import MOST_ATTEMPTS, Claims, ExhaustedError, Owner

TAKE = """
import sys, time
from pathlib import Path
from cnnres_infer.cohort.claims import Claims
claims = Claims(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(sum(claims.take(f"case-{n}") is not None for n in range(50)), flush=True)
time.sleep(60)
"""


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for each in started:
        each.kill()
        each.communicate()


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TAKE, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_each_case_has_one_owner(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    processes += [start(tmp_path) for _ in range(4)]
    for each in processes:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in processes:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    taken = [int(each.stdout.readline()) for each in processes if each.stdout]
    assert sum(taken) == 50
    assert len(list(tmp_path.glob("case-*"))) == 50
    # While the owners live, nobody else gets a case; once they are dead, everybody does.
    assert Claims(tmp_path).take("case-1") is None
    for each in processes:
        each.kill()
        each.wait()
    with Claims(tmp_path).take("case-1") or pytest.fail("not taken") as claim:
        assert claim.is_held
        assert {path.name for path in tmp_path.glob("case-1.*")} == {"case-1.1", "case-1.2"}
    assert not list(tmp_path.glob("case-1.*"))


def leave(folder: Path, name: str, owner: Owner) -> Path:
    path = folder / name
    path.write_text(json.dumps(vars(owner)))
    return path


def test_a_case_that_ended_enough_processes_is_exhausted(tmp_path: Path) -> None:
    mine = Owner.of_this_process()
    dead = Owner(mine.host, 2**22 + 1, "1")
    for count in range(MOST_ATTEMPTS):
        for attempt in range(1, count + 1):
            leave(tmp_path, f"a.{attempt}", dead)
        with Claims(tmp_path).take("a") or pytest.fail("not taken"):
            assert len(list(tmp_path.iterdir())) == count + 1
    for attempt in range(1, MOST_ATTEMPTS + 1):
        leave(tmp_path, f"a.{attempt}", dead)
    with pytest.raises(ExhaustedError):
        Claims(tmp_path).take("a")
    # What is no case is to blame for nothing.
    with Claims(tmp_path).held("a"):
        assert Claims(tmp_path).take("a") is None
    assert not list(tmp_path.iterdir())


def test_another_process_with_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    mine = Owner.of_this_process()
    leave(tmp_path, "a.1", Owner(mine.host, os.getpid(), "1"))
    assert Claims(tmp_path).take("a") is not None


@pytest.mark.parametrize("content", ["", "{", '{"host": 1}', "[]"])
def test_claims_of_other_machines_lapse_when_they_are_not_renewed(
    tmp_path: Path, content: str
) -> None:
    far = Owner("elsewhere", 1, "1")
    path = leave(tmp_path, "a.1", far)
    if content:
        path.write_text(content)
    assert Claims(tmp_path, lease=60).take("a") is None
    os.utime(path, (0, time.time() - 50))
    assert Claims(tmp_path, lease=60).take("a") is None
    os.utime(path, (0, time.time() - 70))
    assert Claims(tmp_path, lease=60).take("a") is not None


def test_claims_are_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Claims(tmp_path, lease=2).take("a") or pytest.fail("not taken"):
        monkeypatch.setattr(claims, "_host", lambda: "another")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert Claims(tmp_path, lease=2).take("a") is None
            time.sleep(0.05)


def test_who_was_taken_for_dead_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Claims(tmp_path).take("a")
    assert first is not None
    monkeypatch.setattr(claims, "_host", lambda: "another")
    os.utime(tmp_path / "a.1", (0, 0))
    second = Claims(tmp_path).take("a")
    assert second is not None
    assert not first.is_held
    assert second.is_held
    first.release()
    assert second.is_held
    second.release()
    assert not list(tmp_path.iterdir())


def test_waiting_for_a_claim(tmp_path: Path) -> None:
    claim = Claims(tmp_path).take("tables")
    assert claim is not None
    order = []

    def second() -> None:
        with Claims(tmp_path).held("tables"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    time.sleep(0.3)
    order.append("first")
    claim.release()
    thread.join()
    assert order == ["first", "second"]
