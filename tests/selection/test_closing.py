"""Closing a chain of engines, while threads use it or change it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cnnres_infer.errors import (
    EngineRunError,
    UsageError,
)
from tests.selection.story import Busy, Named, Story, fails_on
from tests.threads import PATIENCE_S


def test_closing_waits_for_work_and_no_new_work_starts() -> None:
    story = Story()
    with ThreadPoolExecutor(2) as pool:
        busy = Busy(story, pool)
        closing = pool.submit(story.chain.close)
        story.await_waiting()
        with pytest.raises(UsageError, match="the predictor is closed"):
            story.run(fails_on())
        assert story.events == []
        busy.finish()
        closing.result(PATIENCE_S)
        assert busy.done.result(PATIENCE_S) == ("by first", "first")
    assert story.events == ["busy is done", "close first"]
    with pytest.raises(UsageError, match="the predictor is closed"):
        story.run(fails_on())


def test_a_call_that_closing_waits_for_may_still_fall_back() -> None:
    story = Story()
    begun, go_on = threading.Event(), threading.Event()

    def call() -> tuple[str, str]:
        with story.chain.kept_open():
            begun.set()
            assert go_on.wait(PATIENCE_S)
            return story.run(fails_on("first"))

    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(call)
        assert begun.wait(PATIENCE_S)
        closing = pool.submit(story.chain.close)
        story.await_waiting()
        go_on.set()
        assert running.result(PATIENCE_S) == ("by second", "second")
        closing.result(PATIENCE_S)
    assert story.events == ["close first", "open second", "close second"]


def test_closing_during_a_change_opens_nothing() -> None:
    story = Story()
    with ThreadPoolExecutor(3) as pool:
        busy = Busy(story, pool)
        failing = pool.submit(story.run, fails_on("first"))
        story.await_waiting()
        closing = pool.submit(story.chain.close)
        story.await_waiting()
        busy.finish()
        with pytest.raises(EngineRunError, match="first was lost"):
            failing.result(PATIENCE_S)
        closing.result(PATIENCE_S)
    assert story.events == ["busy is done", "close first"]


def test_closing_while_the_next_engine_opens_closes_it() -> None:
    story = Story()
    opening, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        opening.set()
        assert go_on.wait(PATIENCE_S)

    story.before_next = wait
    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(story.run, fails_on("first"))
        assert opening.wait(PATIENCE_S)
        closing = pool.submit(story.chain.close)
        story.await_waiting()
        go_on.set()
        closing.result(PATIENCE_S)
        with pytest.raises(UsageError, match="the predictor is closed"):
            failing.result(PATIENCE_S)
    assert story.events == ["close first", "open second", "close second"]


def test_one_that_cannot_be_closed_is_replaced_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: Named) -> None:
        raise RuntimeError(f"{self.name} cannot be closed")

    story = Story()
    monkeypatch.setattr(Named, "close", refuse)
    assert story.run(fails_on("first")) == ("by second", "second")
    with pytest.raises(RuntimeError, match="second cannot be closed"):
        story.chain.close()


def test_errors_on_closing_the_last_failed_engine_are_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_self: Named) -> None:
        raise RuntimeError("what is lost cannot be closed")

    def nothing() -> None:
        raise EngineRunError("nothing is left")

    story = Story()
    story.before_next = nothing
    monkeypatch.setattr(Named, "close", refuse)
    with pytest.raises(EngineRunError, match="nothing is left"):
        story.run(fails_on("first"))
    story.chain.close()
