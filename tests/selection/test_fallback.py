"""The chain of engines in threads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import (
    BackendUnavailableError,
    BundleError,
    CnnresError,
    EngineRunError,
    LimitError,
    OutputExistsError,
    UsageError,
)
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.selection.select import Selection
from tests.selection.story import Busy, Story, fails_on
from tests.threads import PATIENCE_S, in_threads


def test_work_is_done_with_the_first_engine() -> None:
    story = Story()
    assert story.run(fails_on()) == ("by first", "first")
    story.chain.close()
    assert story.events == ["close first"]


def test_failed_work_is_repeated_until_an_engine_succeeds() -> None:
    story = Story()
    assert story.run(fails_on("first", "second")) == ("by third", "third")
    assert story.run(fails_on("first")) == ("by third", "third")
    assert story.events == ["close first", "open second", "close second", "open third"]
    assert story.reasons == ["first was lost", "second was lost"]


@pytest.mark.parametrize("threads", [2, 8])
def test_an_engine_that_fails_in_many_threads_is_replaced_once(threads: int) -> None:
    story = Story()
    all_inside = threading.Barrier(threads, timeout=PATIENCE_S)

    def work(name: str) -> str:
        if name == "first":
            all_inside.wait()
        return fails_on("first")(name)

    results = in_threads(threads, lambda _: story.run(work))
    assert results == [("by second", "second")] * threads
    assert story.events == ["close first", "open second"]


def test_other_threads_may_finish_with_a_failed_engine() -> None:
    story = Story()
    with ThreadPoolExecutor(2) as pool:
        busy = Busy(story, pool)
        failing = pool.submit(story.run, fails_on("first"))
        story.await_waiting()
        assert story.events == []
        busy.finish()
        assert busy.done.result(PATIENCE_S) == ("by first", "first")
        assert failing.result(PATIENCE_S) == ("by second", "second")
    assert story.events == ["busy is done", "close first", "open second"]


def test_no_work_starts_with_a_failed_engine() -> None:
    """Otherwise, a succession of threads could keep it in use forever."""
    story = Story()
    with ThreadPoolExecutor(3) as pool:
        busy = Busy(story, pool)
        failing = pool.submit(story.run, fails_on("first"))
        story.await_waiting()
        later = pool.submit(story.run, fails_on())
        story.await_waiting()
        busy.finish()
        assert later.result(PATIENCE_S) == ("by second", "second")
        assert failing.result(PATIENCE_S) == ("by second", "second")


def test_an_engine_without_a_successor_fails_without_waiting() -> None:
    story = Story(strict=True)
    with ThreadPoolExecutor(2) as pool:
        busy = Busy(story, pool)
        with pytest.raises(EngineRunError, match="first was lost"):
            pool.submit(story.run, fails_on("first")).result(PATIENCE_S)
        busy.finish()
        assert busy.done.result(PATIENCE_S) == ("by first", "first")
    assert story.run(fails_on()) == ("by first", "first")
    assert "close first" not in story.events


def test_if_no_engine_is_left_every_call_says_why() -> None:
    story = Story()

    def nothing() -> None:
        raise EngineRunError("nothing is left", code=ErrorCode.ENGINE_OUTPUT)

    story.before_next = nothing
    errors = []
    for _ in range(2):
        with pytest.raises(EngineRunError, match="nothing is left") as caught:
            story.run(fails_on("first"))
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert {each.code for each in errors} == {ErrorCode.ENGINE_RUN}
    assert story.events == ["close first"]
    story.chain.close()


@pytest.mark.parametrize(
    "error",
    [
        BundleError("the bundle was altered"),
        LimitError("too much", code=ErrorCode.LIMIT_MEMORY),
        OutputExistsError("a.nii"),
        BackendUnavailableError("not installed", "pip install it"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_another_error_in_the_change_is_raised_again_by_every_later_call(
    error: CnnresError, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story()

    def fail(_self: Selection, _failure: EngineRunError) -> Selection:
        raise error

    monkeypatch.setattr(Selection, "next", fail)
    with pytest.raises(type(error)) as first:
        story.run(fails_on("first"))
    assert first.value is error
    for _ in range(2):
        with pytest.raises(type(error)) as later:
            story.run(fails_on())
        assert later.value is not error
        assert type(later.value) is type(error)
        assert (str(later.value), later.value.code) == (str(error), error.code)
        assert vars(later.value) == vars(error)


def test_a_bundle_that_was_altered_ends_the_chain() -> None:
    story = Story()

    def altered() -> None:
        raise BundleError("the bundle was altered")

    story.before_next = altered
    for _ in range(2):
        with pytest.raises(BundleError, match="altered") as caught:
            story.run(fails_on("first"))
        assert caught.value.code == ErrorCode.BUNDLE


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_an_interrupted_change_is_tried_again(error: type[BaseException]) -> None:
    story = Story()
    errors = iter([error()])

    def interrupt_once() -> None:
        for each in errors:
            raise each

    story.before_next = interrupt_once
    with pytest.raises(error):
        story.run(fails_on("first"))

    def closed(name: str) -> str:
        if name == "first":
            raise EngineRunError("the engine is closed")
        return f"by {name}"

    assert story.run(closed) == ("by second", "second")
    assert story.reasons == ["first was lost"]
    # The reason is not reported again for the next failure.
    assert story.run(fails_on("second")) == ("by third", "third")
    assert story.reasons == ["first was lost", "second was lost"]


@pytest.mark.parametrize("error", [ValueError, LimitError, KeyboardInterrupt])
def test_other_errors_propagate_to_the_caller(error: type[BaseException]) -> None:
    story = Story()

    def work(_name: str) -> None:
        raise error("no")

    with pytest.raises(error):
        story.run(work)
    assert story.run(fails_on()) == ("by first", "first")
    story.chain.close()
    assert story.events == ["close first"]


def test_after_a_timeout_the_change_is_left_to_other_calls() -> None:
    story = Story()
    with pytest.raises(LimitError):
        story.run(fails_on("first"), Stopwatch(timeout=1e-9))
    assert story.events == []
    assert story.run(fails_on("first")) == ("by second", "second")


def test_work_that_would_wait_for_itself_is_refused() -> None:
    story = Story()

    def work(name: str) -> str:
        with pytest.raises(UsageError, match="wait until it is done"):
            story.chain.close()
        with pytest.raises(UsageError, match="wait until it is done"):
            story.run(fails_on())
        return f"by {name}"

    for _ in range(2):
        assert story.run(work) == ("by first", "first")
    story.chain.close()
    assert story.events == ["close first"]


def test_many_threads_and_many_failures() -> None:
    story = Story()
    calls = iter(range(1_000_000))

    def work(name: str) -> str:
        if name != "third" and next(calls) % 7 == 6:
            raise EngineRunError(f"{name} was lost")
        return f"by {name}"

    def many(_index: int) -> list[tuple[Any, str]]:
        return [story.run(work) for _ in range(50)]

    results = [each for thread in in_threads(8, many) for each in thread]
    assert all(done == f"by {name}" for done, name in results)
    assert story.events == ["close first", "open second", "close second", "open third"]
    story.chain.close()
    assert story.events[-1] == "close third"
