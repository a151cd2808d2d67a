import time

import pytest

from cnnres_infer.pipeline.deadline import Stopwatch


def test_the_time_of_an_inner_stage_is_not_added_to_the_outer_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = Stopwatch()
    with clock("outer"):
        now += 1
        for _ in range(2):
            with clock("inner"):
                now += 10
                with clock("innermost"):
                    now += 100
        now += 2
    with clock("outer"):
        now += 4
    assert clock.seconds == {"outer": 7, "inner": 20, "innermost": 200}


def test_the_time_of_a_failed_stage_is_recorded() -> None:
    clock = Stopwatch()
    with pytest.raises(RuntimeError), clock("a"):
        raise RuntimeError
    assert set(clock.seconds) == {"a"}
