"""Engines on a GPU against what callers do with CUDA on threads of their own."""

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pytest

from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import NVIDIA, backend
from cnnres_infer.engines.base import Engine, ModelFile
from cnnres_infer.engines.nvidia import sticky
from cnnres_infer.engines.onnxruntime import tensorrt as ort_trt
from cnnres_infer.engines.tensorrt import plan
from cnnres_infer.engines.tensorrt.engine import TensorRtEngine
from cnnres_infer.engines.tensorrt.runner import PlanRunner
from cnnres_infer.errors import BackendUnavailableError, EngineRunError
from tests.conftest import bright_model
from tests.engines.conftest import FakeMachine
from tests.fakes.cuda import Error
from tests.fakes.onnxruntime import FakeOnnxRuntime
from tests.fakes.tensorrt import FakeTensorRtRtx
from tests.threads import PATIENCE_S, in_threads

IMAGES = np.random.default_rng(0).random((20, 1, 160, 160), np.float32)
EXPECTED = 1 / (1 + np.exp(-60 * (IMAGES - 0.8)))
T = TypeVar("T")
OpenIt = Callable[[], Engine]


@pytest.fixture(params=NVIDIA)
def open_it(
    request: pytest.FixtureRequest, fake_machine: FakeMachine, fake_providers: FakeOnnxRuntime
) -> OpenIt:
    fake_machine.rtx = FakeTensorRtRtx(fake_machine.cuda)
    model = ModelFile("fp32", bright_model())
    return lambda: backend(request.param).open(model, Precision.FP32, 1)


def threads_of_engines() -> list[str]:
    return [each.name for each in threading.enumerate() if "Engine" in each.name]


def test_it_runs_on_the_first_gpu_whatever_the_callers_use(
    open_it: OpenIt, fake_machine: FakeMachine
) -> None:
    cuda = fake_machine.cuda

    def on_device(device: int, work: Callable[[], T]) -> T:
        cuda.cudaSetDevice(device)
        done = work()
        assert cuda.cudaGetDevice()[1] == device
        return done

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as another:
        engine = one.submit(on_device, 1, open_it).result()
        assert set(cuda.streams.values()) <= {0}
        for _ in range(3):
            for pool, device in ((one, 1), (another, 2)):
                output = pool.submit(on_device, device, lambda: engine.run(IMAGES)).result()
                np.testing.assert_allclose(output, EXPECTED, atol=1e-5)
        another.submit(on_device, 2, engine.close).result()
    assert cuda.leaks == 0


def test_its_thread_ends_with_it(open_it: OpenIt) -> None:
    before = threads_of_engines()
    with open_it() as engine:
        engine.run(IMAGES)
        assert len(threads_of_engines()) == len(before) + 1
    assert threads_of_engines() == before


def test_its_thread_ends_where_it_does_not_open(fake_machine: FakeMachine) -> None:
    assert fake_machine.tensorrt is not None
    fake_machine.tensorrt.refuses_plans = True
    before = threads_of_engines()
    with pytest.raises(BackendUnavailableError, match="made by another version"):
        TensorRtEngine.open(ModelFile("fp32", bright_model()), Precision.FP32, 1)
    assert threads_of_engines() == before


def test_an_interrupted_open_does_not_wait_for_the_build(
    fake_machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    building, finish = threading.Event(), threading.Event()

    def build(*_arguments: object, **_options: object) -> tuple[bytes, None]:
        building.set()
        assert finish.wait(PATIENCE_S)
        return bright_model(), None

    def interrupted(_future: Future[object], _timeout: float | None = None) -> None:
        assert building.wait(PATIENCE_S)
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "build", build)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            TensorRtEngine.open(ModelFile("fp32", bright_model()), Precision.FP32, 1)
    (thread,) = [each for each in threading.enumerate() if "TensorRtEngine" in each.name]
    assert not finish.is_set()
    finish.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert fake_machine.cuda.streams == {}
    assert fake_machine.cuda.leaks == 0


def test_an_engine_that_opened_just_before_an_interrupt_is_closed(
    open_it: OpenIt, fake_machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, interrupts = Future.result, iter([KeyboardInterrupt()])

    def interrupted_once(future: Future[object], timeout: float | None = None) -> object:
        opened = result(future, timeout)
        for interrupt in interrupts:
            raise interrupt
        return opened

    before = threads_of_engines()
    monkeypatch.setattr(Future, "result", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        open_it()
    assert threads_of_engines() == before
    assert fake_machine.cuda.leaks == 0


def test_an_abandoned_engine_ends_its_thread(open_it: OpenIt) -> None:
    before = threads_of_engines()
    engine = open_it()
    (thread,) = [
        each for each in threading.enumerate() if each.name not in before and "Engine" in each.name
    ]
    del engine
    gc.collect()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_no_work_is_done_while_the_interpreter_shuts_down(
    open_it: OpenIt, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_it() as engine:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "is_finalizing", lambda: True)
            with pytest.raises(EngineRunError, match="shutting down"):
                engine.run(IMAGES)
            engine.close()
        np.testing.assert_allclose(engine.run(IMAGES), EXPECTED, atol=1e-5)


def test_the_interpreter_does_not_wait_for_its_work() -> None:
    code = (
        "import atexit, threading\n"
        "from cnnres_infer.engines.nvidia.worker import Worker\n"
        "idle, busy = Worker('idle'), Worker('busy')\n"
        "atexit.register(lambda: print(idle.submit(threading.get_ident).result() > 0))\n"
        "busy.submit(threading.Event().wait)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout.strip() == "True"


def test_the_plug_in_is_registered_once(fake_providers: FakeOnnxRuntime) -> None:
    found = in_threads(8, lambda _: len(ort_trt._plug_in_devices()))
    assert found == [2] * 8
    assert fake_providers.registered == ["NvTensorRTRTXExecutionProvider"]


def test_none_opens_after_a_sticky_error(open_it: OpenIt, fake_machine: FakeMachine) -> None:
    sticky.note(RuntimeError("CUDA failure 700: an illegal memory access was encountered"))
    before = threads_of_engines()
    with pytest.raises(BackendUnavailableError, match="start the program again"):
        open_it()
    assert threads_of_engines() == before
    assert fake_machine.cuda.deeds == []


@pytest.mark.parametrize("failure", [Error.cudaErrorInvalidAddressSpace, Error.cudaErrorContained])
@pytest.mark.parametrize("when", ["opening", "running"])
def test_sticky_errors_of_cuda_are_noted(
    fake_machine: FakeMachine, sticky_errors: list[str], failure: Error, when: str
) -> None:
    model = ModelFile("fp32", bright_model())
    if when == "opening":
        fake_machine.cuda.failure = failure
        with pytest.raises(BackendUnavailableError, match=f"CUDA error {int(failure)}: "):
            TensorRtEngine.open(model, Precision.FP32, 1)
    else:
        with TensorRtEngine.open(model, Precision.FP32, 1) as engine:
            fake_machine.cuda.failure = failure
            with pytest.raises(EngineRunError, match=f"CUDA error {int(failure)}: "):
                engine.run(IMAGES)
    assert len(sticky_errors) == 1


@pytest.mark.parametrize("when", ["opening", "running"])
def test_sticky_errors_are_noted(
    fake_machine: FakeMachine,
    monkeypatch: pytest.MonkeyPatch,
    sticky_errors: list[str],
    when: str,
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("Cuda Runtime (unspecified launch failure)")

    def open_it() -> TensorRtEngine:
        return TensorRtEngine.open(ModelFile("fp32", bright_model()), Precision.FP32, 1)

    if when == "opening":
        monkeypatch.setattr(PlanRunner, "__init__", fail)
        with pytest.raises(BackendUnavailableError, match="launch failure"):
            open_it()
    else:
        with open_it() as engine:
            monkeypatch.setattr(PlanRunner, "run", fail)
            with pytest.raises(EngineRunError, match="launch failure"):
                engine.run(IMAGES)
    assert len(sticky_errors) == 1
