"""Which session of ONNX Runtime runs what on a GPU, and what becomes of it after an error."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import ModelFile
from cnnres_infer.engines.nvidia import sticky
from cnnres_infer.engines.onnxruntime.gpu import OrtCudaEngine
from cnnres_infer.engines.onnxruntime.tensorrt import OrtTensorRtEngine
from cnnres_infer.errors import BackendUnavailableError, EngineRunError
from tests.conftest import bright_model
from tests.fakes.driver import FakeDriver
from tests.fakes.onnxruntime import FakeOnnxRuntime, FakeSession

IMAGES = np.random.default_rng(0).random((40, 1, 160, 160), np.float32)
EXPECTED = 1 / (1 + np.exp(-60 * (IMAGES - 0.8)))
SIDES = (96, 128, 160)
ILLEGAL = "CUDA failure 700: an illegal memory access was encountered ; GPU=0"
WHILE_ALLOCATING = (
    "CUDA failure 700: an illegal memory access was encountered ; "
    "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_allocator.cc ; "
    "expr=cudaMalloc((void**)&p, size);"
)


@pytest.fixture(autouse=True)
def fake_gpu(install_driver: Callable[[FakeDriver], None]) -> None:
    install_driver(FakeDriver())


def of_several_sizes() -> ModelFile:
    return ModelFile("fp32", bright_model(extents=("height", "width")), SIDES)


@pytest.mark.parametrize("engine_class", [OrtCudaEngine, OrtTensorRtEngine])
def test_no_graph_is_launched_after_a_run_of_another_size(
    fake_providers: FakeOnnxRuntime, engine_class: type[OrtCudaEngine]
) -> None:
    with engine_class.open(of_several_sizes(), Precision.FP32, 1) as engine:
        for side in (*SIDES, *SIDES):
            images, expected = IMAGES[..., :side], EXPECTED[..., :side]
            np.testing.assert_allclose(engine.run(images), expected, atol=1e-5)
    assert fake_providers.severity == 4


def test_memory_that_is_too_small_for_more_sessions_halves_the_batch(
    fake_providers: FakeOnnxRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OrtCudaEngine.open(of_several_sizes(), Precision.FP32, 1) as engine:
        opened = FakeSession.__init__
        left = iter([RuntimeError("CUDA error 2: out of memory")])

        def limited(*arguments: Any, **options: Any) -> None:
            for error in left:
                raise error
            opened(*arguments, **options)

        monkeypatch.setattr(FakeSession, "__init__", limited)
        engine._bound.popitem()
        np.testing.assert_allclose(
            engine.run(IMAGES[..., :96, :96]), EXPECTED[..., :96, :96], atol=1e-5
        )
        assert "batches of 8 slices" in engine.describe().warnings[0]


@pytest.mark.parametrize(("message", "kept"), [(ILLEGAL, True), ("Invalid input", False)])
def test_nothing_is_released_after_a_sticky_error(
    fake_providers: FakeOnnxRuntime,
    monkeypatch: pytest.MonkeyPatch,
    sticky_errors: list[str],
    message: str,
    kept: bool,
) -> None:
    def fail(*_arguments: Any) -> None:
        raise RuntimeError(message)

    model = of_several_sizes()
    engine = OrtCudaEngine.open(model, Precision.FP32, 1)
    other = OrtCudaEngine.open(model, Precision.FP32, 1)
    sessions = [
        weakref.ref(bound._session) for each in (engine, other) for bound in each._bound.values()
    ]
    assert len(sessions) == 2 * len(SIDES) ** 2
    with monkeypatch.context() as patch:
        patch.setattr(FakeSession, "run_with_iobinding", fail)
        with pytest.raises(EngineRunError, match=message):
            engine.run(IMAGES)
    engine.close()
    other.close()
    del engine, other
    gc.collect()
    assert [each() is not None for each in sessions] == [kept] * len(sessions)
    assert sticky_errors == [message] * kept
    if kept:
        with pytest.raises(BackendUnavailableError, match="start the program again"):
            OrtCudaEngine.open(model, Precision.FP32, 1)


@pytest.mark.parametrize("fails", ["run_with_iobinding", "__init__"])
def test_no_session_is_opened_after_a_sticky_error_while_allocating(
    fake_providers: FakeOnnxRuntime, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    calls: list[str] = []

    def fail(*_arguments: Any, **_options: Any) -> None:
        calls.append("")
        raise RuntimeError(WHILE_ALLOCATING)

    model = of_several_sizes()
    engine = OrtCudaEngine.open(model, Precision.FP32, 1)
    other = OrtCudaEngine.open(model, Precision.FP32, 1)
    for each in (engine, other):
        each._bound.popitem()
    monkeypatch.setattr(FakeSession, fails, fail)
    # The shape that is no longer bound, whose session must be opened first.
    images = IMAGES[..., :96, :96] if fails == "__init__" else IMAGES
    with pytest.raises(EngineRunError, match="failure 700"):
        engine.run(images)
    assert len(calls) == 1
    monkeypatch.setattr(FakeSession, "__init__", fail)
    with pytest.raises(EngineRunError, match="CUDA cannot be used in it any more"):
        other.run(IMAGES[..., :96, :96])
    with pytest.raises(BackendUnavailableError, match="CUDA cannot be used in it any more"):
        OrtCudaEngine.open(model, Precision.FP32, 1)
    assert len(calls) == 1
    assert engine.describe().warnings == other.describe().warnings == ()
    engine.close()
    other.close()


@pytest.mark.parametrize(("message", "kept"), [(ILLEGAL, True), ("Invalid input", False)])
def test_engines_that_are_never_closed_outlive_a_sticky_error(
    fake_providers: FakeOnnxRuntime, message: str, kept: bool
) -> None:
    model = ModelFile("fp32", bright_model())
    idle = OrtCudaEngine.open(model, Precision.FP32, 1)
    session, worker = weakref.ref(idle._handle), idle._worker
    sticky.note(RuntimeError(message))
    assert sticky.seen() == kept
    del idle
    gc.collect()
    assert (session() is not None) == kept
    worker.stop()


def test_engines_that_are_made_after_a_sticky_error_outlive_it() -> None:
    class Engine:
        pass

    sticky.note(RuntimeError(ILLEGAL))
    late = Engine()
    reference = weakref.ref(late)
    sticky.watch(late)
    del late
    gc.collect()
    assert reference() is not None


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("CUDA failure 719: unspecified launch failure", True),
        ("CUDA error 716", True),
        ("misaligned address", True),
        ("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0", True),
        ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0", True),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", False),
        ("CUDA failure 2: out of memory", False),
        ("CUDA failure 7001", False),
    ],
)
def test_sticky_errors_are_told_by_number_or_words(message: str, found: bool) -> None:
    sticky.note(RuntimeError(message))
    assert sticky.seen() == found
