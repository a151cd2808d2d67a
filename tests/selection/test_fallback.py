"""The chain of engines in threads; each order of events is forced, without waiting for chance."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, Self

import pytest

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo, Skipped
from cnnres_infer.engines.base import Engine, ModelFile, Probe, Variants
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
from cnnres_infer.selection.fallback import EngineChain
from cnnres_infer.selection.select import Selection
from tests.threads import PATIENCE_S, in_threads


class Named:
    """An engine that only has a name, and records when it is closed."""

    VARIANTS: ClassVar[Variants] = {}
    BATCH: ClassVar[int] = 1
    LEAST: ClassVar[int] = 1
    RIVALS: ClassVar[tuple[Precision, ...]] = ()
    CACHE_FOLDER: ClassVar[str | None] = None
    sides: tuple[int, ...] = ()
    padded_sizes: tuple[int, ...] = ()

    def __init__(self, name: str, story: list[str]) -> None:
        self.name, self._story = name, story

    @classmethod
    def probe(cls) -> Probe:
        return Probe(True, "")

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        raise NotImplementedError

    def run(self, images: FloatArray) -> FloatArray:
        return images

    def describe(self) -> EngineInfo:
        return EngineInfo(self.name, "", Precision.FP32, "fp32", 1, {})

    def close(self) -> None:
        self._story.append(f"close {self.name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Watched(threading.Condition):
    """A condition that counts the threads that have started to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.release()
        return super().wait(timeout)


class Story:
    """A chain of engines, `first` to `third`, and what happened to them, in order.

    Attributes
    ----------
    events
        ``"open second"``, ``"close first"`` and events that tests add.
    before_next
        Called before each next engine is opened.
    reasons
        Why each replaced engine had failed.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.events: list[str] = []
        self.before_next: Callable[[], None] = lambda: None
        self.reasons: list[str] = []
        self._names = iter(["second", "third"])
        engine = Named("first", self.events)
        self.chain = EngineChain(Selection(engine, reselect=None if strict else self._next))
        self.chain._state = self.watched = Watched()

    def _next(self, failed: tuple[Skipped, ...]) -> Selection:
        self.before_next()
        self.reasons.append(failed[-1].reason)
        name = next(self._names)
        self.events.append(f"open {name}")
        return Selection(Named(name, self.events), skipped=failed, reselect=self._next)

    def run(self, work: Callable[[str], Any], clock: Stopwatch | None = None) -> tuple[Any, str]:
        """Run work with the engine's name; returns its result and the engine that it ran on."""
        result, selection = self.chain.run(lambda each: work(name_of(each)), clock or Stopwatch())
        return result, name_of(selection.engine)

    def await_waiting(self, threads: int = 1) -> None:
        """Wait until this many more threads are waiting for another one."""
        for _ in range(threads):
            assert self.watched.waits.acquire(timeout=PATIENCE_S)


def name_of(engine: Engine) -> str:
    assert isinstance(engine, Named)
    return engine.name


def fails_on(*names: str) -> Callable[[str], str]:
    def work(name: str) -> str:
        if name in names:
            raise EngineRunError(f"{name} was lost")
        return f"by {name}"

    return work


class Busy:
    """Work in its own thread that continues until `finish` is called."""

    def __init__(self, story: Story, pool: ThreadPoolExecutor) -> None:
        self._inside, self._finish = threading.Event(), threading.Event()
        self._story = story
        self.done: Future[tuple[Any, str]] = pool.submit(story.run, self._work)
        assert self._inside.wait(PATIENCE_S)

    def _work(self, name: str) -> str:
        self._inside.set()
        assert self._finish.wait(PATIENCE_S)
        self._story.events.append("busy is done")
        return f"by {name}"

    def finish(self) -> None:
        self._finish.set()


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
