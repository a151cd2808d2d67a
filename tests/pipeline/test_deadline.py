import time

import pytest

from cnnres_infer.pipeline.deadline import Stopwatch


def test_an_inner_stage_counts_for_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_failing_stage_is_counted() -> None:
    clock = Stopwatch()
    with pytest.raises(RuntimeError), clock("a"):
        raise RuntimeError
    assert set(clock.seconds) == {"a"}
