"""A chain of engines that have only names, in which the order of events is forced."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, Self

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo, Skipped
from cnnres_infer.engines.base import Engine, ModelFile, Probe, Variants
from cnnres_infer.errors import (
    EngineRunError,
)
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.selection.fallback import EngineChain
from cnnres_infer.selection.select import Selection
from tests.threads import PATIENCE_S


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
