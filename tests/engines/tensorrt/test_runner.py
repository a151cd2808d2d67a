"""The runner against fakes of CUDA and TensorRT; `tests/gpu` has the real ones."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnres_infer.engines.tensorrt.cuda import Cuda, DeviceMemoryError
from cnnres_infer.engines.tensorrt.runner import PlanRefusedError, PlanRunner
from cnnres_infer.errors import BackendUnavailableError, EngineRunError
from tests.conftest import bright_model
from tests.fakes.cuda import ALIGNMENT, CaptureMode, Error, FakeCudaRuntime
from tests.fakes.tensorrt import COUNTS, SCRATCH_EACH, FakeTensorRT, FakeTensorRtRtx

PLAN = bright_model()
SLICE_BYTES = 4 * 160 * 160
IN_AND_OUT = 2


def images(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, 1, 160, 160), np.float32)


def expected(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-60 * (inputs - 0.8))), np.float32)


@pytest.fixture
def runtime() -> FakeCudaRuntime:
    return FakeCudaRuntime()


@pytest.fixture
def trt(runtime: FakeCudaRuntime) -> FakeTensorRT:
    return FakeTensorRT(runtime)


@pytest.fixture
def runner(runtime: FakeCudaRuntime, trt: FakeTensorRT) -> Iterator[PlanRunner]:
    runner = PlanRunner(trt, Cuda(runtime), PLAN, batch=4)
    yield runner
    runner.close()
    assert runtime.leaks == 0


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9, 17])
def test_batches_with_a_remainder(runner: PlanRunner, count: int) -> None:
    for seed in range(4):
        inputs = images(count, seed)
        np.testing.assert_allclose(runner.run(inputs), expected(inputs), atol=1e-5)


def test_graphs_are_captured_on_the_second_run_and_launched_after(
    runner: PlanRunner, runtime: FakeCudaRuntime
) -> None:
    runner.run(images(4))
    assert runtime.deeds == ["in", "run", "out"]
    runner.run(images(4))
    assert runtime.deeds[3:] == ["capture", "launch", "in", "run", "out"]
    runner.run(images(8))
    assert runtime.deeds[8:] == ["launch", "in", "run", "out"] * 2


def test_rests_are_padded_and_share_contexts_and_graphs(
    runtime: FakeCudaRuntime, trt: FakeTensorRT
) -> None:
    runner = PlanRunner(trt, Cuda(runtime), PLAN, batch=16)
    assert runner.sizes == (4, 8, 16)
    for turn in range(3):
        for count in (73, 9, 5, 8, 3, 1, 4):
            inputs = images(count, turn)
            np.testing.assert_allclose(runner.run(inputs), expected(inputs), atol=1e-5)
    assert trt.contexts == runtime.deeds.count("capture") == 3
    runner.close()
    assert runtime.leaks == 0


def test_sizes_of_images_share_the_buffers_of_the_largest(
    trt: FakeTensorRT, runtime: FakeCudaRuntime
) -> None:
    plan = bright_model(extents=("height", "width"))
    runner = PlanRunner(trt, Cuda(runtime), plan, batch=4)
    assert runner.image == (1, -1, -1)
    for turn in range(4):
        for extents in ((96, 128), (160, 160), (128, 96)):
            inputs = np.random.default_rng(turn).random((6, 1, *extents), np.float32)
            np.testing.assert_allclose(runner.run(inputs), expected(inputs), atol=1e-5)
    assert trt.contexts == runtime.deeds.count("capture") == 3
    runner.close()
    assert runtime.leaks == 0


def test_it_is_captured_beside_code_that_uses_the_legacy_stream(
    runner: PlanRunner, runtime: FakeCudaRuntime
) -> None:
    runtime.legacy_in_use = True
    for seed in range(3):
        inputs = images(4, seed)
        np.testing.assert_allclose(runner.run(inputs), expected(inputs), atol=1e-5)
    assert runtime.deeds.count("capture") == 1
    assert not runtime.blocking


def test_there_is_memory_for_one_batch(runner: PlanRunner, runtime: FakeCudaRuntime) -> None:
    for _ in range(3):
        runner.run(images(17))
    sizes = sorted(len(memory) - ALIGNMENT for memory in runtime.device.values())
    assert sizes == [4 * SCRATCH_EACH, 4 * SLICE_BYTES, 4 * SLICE_BYTES]
    assert len(runtime.host) == IN_AND_OUT


@pytest.mark.parametrize("resizes", [True, False])
def test_scratch_memory_is_for_the_batch_if_the_plan_resizes_it(
    trt: FakeTensorRT, runtime: FakeCudaRuntime, resizes: bool
) -> None:
    trt.resizes = resizes
    runner = PlanRunner(trt, Cuda(runtime), PLAN, batch=4)
    inputs = images(4)
    np.testing.assert_allclose(runner.run(inputs), expected(inputs), atol=1e-5)
    sizes = [len(memory) - ALIGNMENT for memory in runtime.device.values()]
    assert SCRATCH_EACH * (4 if resizes else COUNTS[-1]) in sizes
    runner.close()


def test_the_stream_is_on_the_gpu_that_was_chosen(runtime: FakeCudaRuntime) -> None:
    def open_on_second() -> None:
        Cuda(runtime, 1).close()
        assert runtime.current == 1

    with ThreadPoolExecutor(1) as pool:
        pool.submit(open_on_second).result()
    assert runtime.current == 0
    with pytest.raises(BackendUnavailableError, match="cudaErrorInvalidDevice"):
        Cuda(runtime, 9)


def test_a_driver_that_is_too_old_is_no_failure_of_a_run(runtime: FakeCudaRuntime) -> None:
    runtime.too_old = True
    with pytest.raises(
        BackendUnavailableError, match=r"InsufficientDriver.*'cuda-bindings==12\.9\.\*'"
    ):
        Cuda(runtime)


def test_the_fakes_refuse_what_cuda_does(trt: FakeTensorRT, runtime: FakeCudaRuntime) -> None:
    cuda = Cuda(runtime)
    forbidden: list[Callable[[], Any]] = [lambda: cuda.allocate(8), cuda.wait]
    for call in forbidden:
        with pytest.raises(EngineRunError, match="CaptureUnsupported"):
            cuda.capture(call)
    # The first run of a context allocates.
    runner = PlanRunner(trt, cuda, PLAN, batch=4)
    buffers = runner._prepare((1, 160, 160))
    program = runner._program((4, 1, 160, 160))
    with pytest.raises(EngineRunError, match="CaptureUnsupported"):
        cuda.capture(lambda: runner._enqueue(program, buffers))
    program.context.set_device_memory(runner._scratch[0].address + 4, 1 << 20)
    assert "not aligned" in runner._logger.summary()
    blocking = FakeCudaRuntime()
    blocking.legacy_in_use = True
    _, stream = blocking.cudaStreamCreate()
    (status,) = blocking.cudaStreamBeginCapture(stream, CaptureMode(1))
    assert status == Error.cudaErrorStreamCaptureImplicit
    _, stream = blocking.cudaStreamCreateWithFlags(1)
    blocking.cudaStreamBeginCapture(stream, CaptureMode(1))
    assert blocking.cudaStreamSynchronize(stream) == (Error.cudaErrorStreamCaptureUnsupported,)
    assert blocking.cudaStreamEndCapture(stream) == (Error.cudaErrorStreamCaptureInvalidated, None)
    runner.close()
    assert runtime.leaks == 0


def test_kernels_that_were_checked_are_those_that_run(runtime: FakeCudaRuntime) -> None:
    rtx = FakeTensorRtRtx(runtime)
    runner = PlanRunner(rtx, Cuda(runtime), PLAN, batch=4)
    first, *later = [runner.run(images(4)) for _ in range(5)]
    assert all(np.array_equal(first, each) for each in later)
    assert rtx.compiled == [4]
    runner.close()


def test_full_memory_halves_the_batch_and_goes_on(
    trt: FakeTensorRT, runtime: FakeCudaRuntime
) -> None:
    runtime.limit = IN_AND_OUT * 2 * SLICE_BYTES + 2 * SCRATCH_EACH
    runner = PlanRunner(trt, Cuda(runtime), PLAN, batch=8)
    inputs = images(9)
    np.testing.assert_allclose(runner.run(inputs), expected(inputs), atol=1e-5)
    assert runner.batch == 2
    assert [text.rpartition(":")[2] for text in runner.warnings] == [
        " continuing with batches of 4 slices",
        " continuing with batches of 2 slices",
    ]
    runner.close()
    assert runtime.leaks == 0


def test_the_batch_is_reduced_to_sizes_that_were_checked_only(
    trt: FakeTensorRT, runtime: FakeCudaRuntime
) -> None:
    runner = PlanRunner(trt, Cuda(runtime), PLAN, batch=24)
    runner.settle()
    checked = runner.sizes
    inputs, reduced = images(24), []
    for slices in (16, 8, 4):
        runtime.limit = IN_AND_OUT * slices * SLICE_BYTES + 2 * SCRATCH_EACH * slices
        np.testing.assert_allclose(runner.run(inputs), expected(inputs), atol=1e-5)
        reduced.append(runner.batch)
        assert set(runner.sizes) <= set(checked)
        runner._release()
    assert reduced == [16, 8, 4]
    runtime.limit = IN_AND_OUT * 2 * SLICE_BYTES
    with pytest.raises(DeviceMemoryError):
        runner.run(inputs)
    runner.close()


def test_rtx_pads_to_one_size_and_runs_no_other_once_that_was_checked(
    runtime: FakeCudaRuntime,
) -> None:
    room_for_eight = IN_AND_OUT * 8 * SLICE_BYTES + 8 * SCRATCH_EACH
    rtx = FakeTensorRtRtx(runtime)
    runner = PlanRunner(rtx, Cuda(runtime), PLAN, batch=16)
    assert runner.sizes == (16,)
    runner.settle()
    runtime.limit = room_for_eight
    with pytest.raises(DeviceMemoryError):
        runner.run(images(3))
    runner.close()
    runner = PlanRunner(rtx, Cuda(runtime), PLAN, batch=16)
    runner.run(images(3))
    assert runner.sizes == (8,)
    runner.close()


def test_memory_too_small_for_a_slice_is_an_error(
    trt: FakeTensorRT, runtime: FakeCudaRuntime
) -> None:
    runtime.limit = SLICE_BYTES
    runner = PlanRunner(trt, Cuda(runtime), PLAN, batch=8)
    with pytest.raises(DeviceMemoryError, match="cudaErrorMemoryAllocation"):
        runner.run(images(2))
    runner.close()
    assert runtime.leaks == 0


@pytest.mark.parametrize("earlier", [0, 1, 3])
def test_a_lost_device_is_our_error_and_leaves_nothing(
    trt: FakeTensorRT, runtime: FakeCudaRuntime, earlier: int
) -> None:
    runner = PlanRunner(trt, Cuda(runtime), PLAN, batch=4)
    for _ in range(earlier):
        runner.run(images(8))
    runtime.failure = Error.cudaErrorUnknown
    with pytest.raises(EngineRunError, match=r"CUDA error 999: cudaErrorUnknown.*nvidia-smi"):
        runner.run(images(8))
    runner.close()
    assert runtime.leaks == 0


def test_a_run_that_tensorrt_refuses(runner: PlanRunner, trt: FakeTensorRT) -> None:
    trt.fails_to_run = True
    with pytest.raises(EngineRunError, match="TensorRT failed to run"):
        runner.run(images(8))
    trt.fails_to_run = False
    inputs = images(5)
    np.testing.assert_allclose(runner.run(inputs), expected(inputs), atol=1e-5)


def test_an_exception_of_tensorrt_is_our_error(
    runner: PlanRunner, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise ValueError("pybind11 says no")

    monkeypatch.setattr(trt, "compile", fail)
    with pytest.raises(EngineRunError, match="pybind11 says no"):
        runner.run(images(4))


def test_a_failure_while_capturing_ends_the_capture(runner: PlanRunner, trt: FakeTensorRT) -> None:
    runner.run(images(4))
    trt.fails_to_run = True
    with pytest.raises(EngineRunError, match="TensorRT failed to run"):
        runner.run(images(4))
    trt.fails_to_run = False
    for seed in range(3):
        inputs = images(4, seed)
        np.testing.assert_allclose(runner.run(inputs), expected(inputs), atol=1e-5)


def test_an_invalid_plan_without_a_reason_gets_what_was_logged(runtime: FakeCudaRuntime) -> None:
    rtx = FakeTensorRtRtx(runtime)
    rtx.refuses_plans, rtx.diagnostics, rtx.complaint = True, 0, "the header is damaged"
    with pytest.raises(PlanRefusedError, match=r"cannot run on this GPU: the header is damaged$"):
        PlanRunner(rtx, Cuda(runtime), PLAN, batch=4)


def test_a_plan_that_tensorrt_refuses(trt: FakeTensorRT, runtime: FakeCudaRuntime) -> None:
    trt.refuses_plans = True
    with pytest.raises(BackendUnavailableError, match="made by another version"):
        PlanRunner(trt, Cuda(runtime), PLAN, batch=4)
