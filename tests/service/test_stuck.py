"""Cases that cannot be claimed."""

import logging
from pathlib import Path

import pytest

from cnnres_infer.service.stuck import Stuck, read_stuck


def test_a_case_is_said_once_until_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = Stuck(tmp_path)
    for _ in range(2):
        stuck.add("a", "a: no")
    stuck.add("b", "b: no")
    assert stuck.is_passed_over("a")
    assert read_stuck(tmp_path) == ("a: no", "b: no")
    stuck.keep({"b"})
    assert not stuck.is_passed_over("a")
    assert stuck.is_passed_over("b")
    assert read_stuck(tmp_path) == ("b: no",)
    stuck.add("a", "a: no")
    assert [each.getMessage() for each in caplog.records] == ["a: no", "b: no", "a: no"]
    assert {each.levelno for each in caplog.records} == {logging.WARNING}


def test_what_was_stuck_is_looked_at_anew_by_the_next_process(tmp_path: Path) -> None:
    Stuck(tmp_path).add("a", "a: no")
    Stuck(tmp_path)
    assert read_stuck(tmp_path) == ()
    Stuck(tmp_path).add("a", "a\nb: no")
    assert read_stuck(tmp_path) == ("a\\nb: no",)
