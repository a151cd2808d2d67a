"""Cases that cannot be claimed."""

import logging
from pathlib import Path

import pytest

from cnnres_infer.service.stuck import Stuck, read_stuck


def test_a_case_is_said_once_until_it_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = Stuck(tmp_path)
    arriving = tmp_path / "arriving"
    for name in ("a", "b"):
        (arriving / name).mkdir(parents=True)
    for _ in range(2):
        stuck.add("a", "1f", "a: no")
    stuck.add("b", "2e", "b: no")
    stuck.forget_gone(arriving)
    assert stuck.is_passed_over("a")
    assert read_stuck(tmp_path) == ("a: no", "b: no")
    (arriving / "a").rmdir()
    stuck.forget_gone(arriving)
    assert not stuck.is_passed_over("a")
    assert stuck.is_passed_over("b")
    assert read_stuck(tmp_path) == ("b: no",)
    # Names may be those of patients.
    assert [each.getMessage() for each in caplog.records] == [
        f"case {study} cannot be moved; see cnnres-infer status" for study in ("1f", "2e")
    ]
    assert {each.levelno for each in caplog.records} == {logging.WARNING}


def test_what_was_stuck_is_looked_at_anew_by_the_next_process(tmp_path: Path) -> None:
    Stuck(tmp_path).add("a", "1f", "a: no")
    Stuck(tmp_path)
    assert read_stuck(tmp_path) == ()
    Stuck(tmp_path).add("a", "1f", "a\nb: no")
    assert read_stuck(tmp_path) == ("a\\nb: no",)
