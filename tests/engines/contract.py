"""The contract of every engine; `tests/gpu` runs it on real GPUs."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.crops import crop_box
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import Engine, run_all
from cnnres_infer.errors import EngineRunError
from tests.threads import PATIENCE_S, in_threads

SIZE = 160
SIDES = (96, 128, 160)
SHAPES = [(height, width) for height in SIDES for width in SIDES]
# Of each backend, a method of the runtime that every run calls: module, class and name.
SEAMS = {
    "tensorrt": ("cnnres_infer.engines.tensorrt.cuda", "Cuda", "wait"),
    "tensorrt-rtx": ("cnnres_infer.engines.tensorrt.cuda", "Cuda", "wait"),
    "ort-tensorrt": ("onnxruntime", "InferenceSession", "run_with_iobinding"),
    "ort-tensorrt-rtx": ("onnxruntime", "InferenceSession", "run"),
    "ort-cuda": ("onnxruntime", "InferenceSession", "run_with_iobinding"),
    "openvino": ("openvino", "InferRequest", "infer"),
    "ort": ("onnxruntime", "InferenceSession", "run"),
}


@dataclass(frozen=True)
class Subject:
    """An engine that computes `tests.conftest.bright_model`.

    Attributes
    ----------
    backend, precision
        What it must call itself.
    open
        Opens it.
    seam
        A method of the runtime that every run calls: its class and its name.
    open_flexible
        Opens it for images of several sizes, `SIDES`.
    tolerance
        How far its probabilities may be off.
    any_size
        Whether it takes images of any size.
    """

    backend: str
    precision: Precision
    open: Callable[[], Engine]
    open_flexible: Callable[[], Engine]
    seam: tuple[Any, str]
    tolerance: float = 1e-5
    any_size: bool = False

    def check(self, output: FloatArray, images: FloatArray) -> None:
        """Fail unless an output is the network's known answer to some images."""
        assert output.dtype == np.float32
        assert output.shape == (len(images), 1, *images.shape[2:])
        expected = 1 / (1 + np.exp(-60 * (images - 0.8)))
        np.testing.assert_allclose(output, expected, rtol=0, atol=self.tolerance)


def seam_of(backend: str) -> tuple[Any, str]:
    """The seam of a backend, if its runtime is installed."""
    module, owner, method = SEAMS[backend]
    return getattr(pytest.importorskip(module), owner), method


def some_images(count: int, seed: int = 0, extents: tuple[int, int] = (SIZE, SIZE)) -> FloatArray:
    return np.random.default_rng(seed).random((count, 1, *extents), np.float32)


class EngineContract:
    """The tests; a subclass has a module with a fixture `subject`."""

    @pytest.fixture
    def engine(self, subject: Subject) -> Iterator[Engine]:
        with subject.open() as engine:
            yield engine

    @pytest.fixture
    def intercept(
        self, subject: Subject, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[Callable[[], None]], None]:
        """Let something happen in the middle of every run."""
        owner, name = subject.seam
        original = getattr(owner, name)

        def install(happen: Callable[[], None]) -> None:
            def run(*arguments: Any, **options: Any) -> Any:
                happen()
                return original(*arguments, **options)

            monkeypatch.setattr(owner, name, run)

        return install

    @pytest.mark.parametrize("beyond_batch", [None, 0, 3])
    def test_it_gives_the_known_answer(
        self, subject: Subject, engine: Engine, beyond_batch: int | None
    ) -> None:
        count = 1 if beyond_batch is None else engine.BATCH + beyond_batch
        for seed in range(3):
            images = some_images(count, seed)
            subject.check(engine.run(images), images)

    def test_no_images_give_no_probabilities(self, subject: Subject, engine: Engine) -> None:
        none = some_images(0)
        subject.check(engine.run(none), none)
        subject.check(run_all(engine, none), none)
        subject.check(engine.run(some_images(1)), some_images(1))

    def test_the_images_are_left_alone(self, subject: Subject, engine: Engine) -> None:
        images = some_images(5)
        images.setflags(write=False)
        for view in (images, images[::2], images[:, :, ::-1], images.transpose(0, 1, 3, 2)):
            subject.check(engine.run(view), view)
        assert np.array_equal(images, some_images(5))
        assert not images.flags.writeable

    def test_the_output_belongs_to_the_caller(self, subject: Subject, engine: Engine) -> None:
        images = some_images(3)
        first, second = engine.run(images), engine.run(some_images(3, 1))
        subject.check(first, images)
        assert not np.shares_memory(first, second)
        assert not np.shares_memory(first, images)
        first[:] = 7
        subject.check(second, some_images(3, 1))
        subject.check(engine.run(images), images)
        assert (first == 7).all()

    @pytest.mark.parametrize(
        "images",
        [
            np.zeros((2, 2, SIZE, SIZE), np.float32),
            np.zeros((1, SIZE, SIZE), np.float32),
            np.zeros((1, 2, 1, SIZE, SIZE), np.float32),
            np.zeros((2, 1, SIZE, SIZE), np.float64),
            np.zeros((2, 1, SIZE, SIZE), np.uint8),
            np.zeros((0, 2, SIZE, SIZE), np.float32),
        ],
        ids=lambda images: f"{images.dtype}-{'x'.join(map(str, images.shape))}",
    )
    def test_wrong_images_are_refused(
        self, subject: Subject, engine: Engine, images: FloatArray
    ) -> None:
        with pytest.raises(EngineRunError, match="give float32"):
            engine.run(images)
        subject.check(engine.run(some_images(2)), some_images(2))

    @pytest.mark.parametrize("size", [(SIZE, 1), (1, SIZE), (SIZE, 2 * SIZE), (10, 10)])
    def test_images_of_another_size_are_refused(
        self, subject: Subject, engine: Engine, size: tuple[int, int]
    ) -> None:
        if subject.any_size:
            pytest.skip("it takes any size")
        with pytest.raises(EngineRunError, match=f"give float32 .N, 1, {SIZE}, {SIZE}"):
            engine.run(np.zeros((2, 1, *size), np.float32))
        subject.check(engine.run(some_images(2)), some_images(2))

    def test_it_describes_itself_before_and_after(self, subject: Subject) -> None:
        engine = subject.open()
        info = engine.describe()
        assert (info.backend, info.precision) == (subject.backend, subject.precision)
        assert info.provider
        assert info.variant
        assert info.versions
        assert info.threads >= 1
        assert info.warnings == ()
        engine.run(some_images(2))
        engine.close()
        assert engine.describe() == info

    def test_a_closed_engine_says_so(self, subject: Subject) -> None:
        engine = subject.open()
        engine.run(some_images(1))
        engine.close()
        engine.close()
        for images in (some_images(1), some_images(0), np.zeros(3, np.float32)):
            with pytest.raises(EngineRunError, match="the engine is closed"):
                engine.run(images)

    def test_it_can_be_opened_again(self, subject: Subject) -> None:
        for seed in range(3):
            with subject.open() as engine:
                subject.check(engine.run(some_images(3, seed)), some_images(3, seed))

    def test_two_are_independent(self, subject: Subject, engine: Engine) -> None:
        with subject.open() as other:
            subject.check(other.run(some_images(2, 1)), some_images(2, 1))
            subject.check(engine.run(some_images(2, 2)), some_images(2, 2))
        subject.check(engine.run(some_images(2, 3)), some_images(2, 3))

    @pytest.mark.parametrize("threads", [2, 8])
    def test_each_thread_gets_its_own_answers(
        self, subject: Subject, engine: Engine, threads: int
    ) -> None:
        def work(index: int) -> None:
            images = some_images(1 + index % 5, index)
            for _ in range(20):
                subject.check(engine.run(images), images)

        in_threads(threads, work)

    @pytest.mark.parametrize("error", [RuntimeError, MemoryError, AssertionError])
    def test_what_the_runtime_raises_is_our_error(
        self,
        subject: Subject,
        engine: Engine,
        intercept: Callable[[Callable[[], None]], None],
        error: type[Exception],
    ) -> None:
        failures = iter([error("it broke")])

        def fail_once() -> None:
            for failure in failures:
                raise failure

        subject.check(engine.run(some_images(2)), some_images(2))
        intercept(fail_once)
        with pytest.raises(EngineRunError, match="failed: it broke") as caught:
            engine.run(some_images(5))
        assert type(caught.value.__cause__) is error
        for seed in range(3):
            subject.check(engine.run(some_images(5, seed)), some_images(5, seed))

    def test_an_interrupt_is_none_of_its_business(
        self, subject: Subject, engine: Engine, intercept: Callable[[Callable[[], None]], None]
    ) -> None:
        interrupts = iter([KeyboardInterrupt()])

        def interrupt_once() -> None:
            for each in interrupts:
                raise each

        intercept(interrupt_once)
        with pytest.raises(KeyboardInterrupt):
            engine.run(some_images(5))
        subject.check(engine.run(some_images(5)), some_images(5))

    def test_a_failure_in_one_thread_leaves_the_others_alone(
        self, subject: Subject, engine: Engine, intercept: Callable[[Callable[[], None]], None]
    ) -> None:
        calls = iter(range(1_000_000))

        def fail_sometimes() -> None:
            if next(calls) % 3 == 0:
                raise RuntimeError("it broke")

        def work(index: int) -> int:
            images, failures = some_images(2, index), 0
            for _ in range(10):
                try:
                    subject.check(engine.run(images), images)
                except EngineRunError:
                    failures += 1
            return failures

        intercept(fail_sometimes)
        assert 0 < sum(in_threads(4, work)) < 40

    def test_closing_lets_a_run_finish(
        self, subject: Subject, engine: Engine, intercept: Callable[[Callable[[], None]], None]
    ) -> None:
        inside, resume = threading.Event(), threading.Event()

        def stop() -> None:
            inside.set()
            assert resume.wait(PATIENCE_S)

        intercept(stop)
        images = some_images(3)
        with ThreadPoolExecutor(3) as pool:
            running = pool.submit(engine.run, images)
            assert inside.wait(PATIENCE_S)
            closing = [pool.submit(engine.close) for _ in range(2)]
            resume.set()
            subject.check(running.result(PATIENCE_S), images)
            for each in closing:
                each.result(PATIENCE_S)
        with pytest.raises(EngineRunError, match="the engine is closed"):
            engine.run(images)

    def test_closing_amid_runs_is_an_answer_or_our_error(
        self, subject: Subject, engine: Engine
    ) -> None:
        def run_for_ever(images: FloatArray) -> None:
            while True:
                subject.check(engine.run(images), images)

        def work(index: int) -> None:
            if index == 0:
                engine.close()
            with pytest.raises(EngineRunError, match="the engine is closed"):
                run_for_ever(some_images(2, index))

        in_threads(4, work)

    def test_images_of_several_sizes(self, subject: Subject) -> None:
        with subject.open_flexible() as engine:
            assert engine.sides == SIDES
            for seed, count in enumerate((2, engine.BATCH + 3, 1)):
                for extents in SHAPES[seed:] + SHAPES[:seed]:
                    images = some_images(min(count, 9), seed, extents)
                    subject.check(engine.run(images), images)
            for extents in ((64, 96), (96, 192), (100, 128), (32, 32)):
                with pytest.raises(EngineRunError, match="96 or 128 or 160, 96 or 128 or 160"):
                    engine.run(some_images(1, 0, extents))
            none = some_images(0, 0, (96, 128))
            subject.check(engine.run(none), none)

    def test_each_thread_has_a_size_of_its_own(self, subject: Subject) -> None:
        def work(index: int) -> None:
            images = some_images(1 + index % 3, index, SHAPES[index])
            for _ in range(5):
                subject.check(engine.run(images), images)

        with subject.open_flexible() as engine:
            in_threads(4, work)

    def test_brains_are_computed_and_the_rest_is_zero(self, subject: Subject) -> None:
        images = np.zeros((7, 1, SIZE, SIZE), np.float32)
        for image, size in zip(images, (20, 96, 97, 128, 129, 160, 20), strict=True):
            image[0, :size, -size:] = some_images(1, size, (size, size))[0, 0]
        with subject.open_flexible() as engine:
            output = run_all(engine, images)
        for image, answer in zip(images, output, strict=True):
            box = crop_box(image, SIDES)
            subject.check(answer[None][:, :, *box], image[None][:, :, *box])
            answer[:, *box] = 0
        assert not output.any()
