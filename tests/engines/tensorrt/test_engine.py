"""The whole way of a TensorRT engine on a fake machine: probe, build, cache, run, report."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.jsonable import to_json
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import probe
from cnnres_infer.engines.base import ModelFile
from cnnres_infer.engines.tensorrt import store as plans
from cnnres_infer.engines.tensorrt.api import Flavour
from cnnres_infer.engines.tensorrt.engine import TensorRtRtxEngine
from cnnres_infer.engines.tensorrt.plan import open_store
from cnnres_infer.errors import (
    BackendUnavailableError,
    EngineRunError,
    OutputError,
    VerificationError,
)
from cnnres_infer.outputs.writers.report import Report
from cnnres_infer.predictor import Predictor
from cnnres_infer.selection.offers import open_engine
from cnnres_infer.selection.select import Selection
from tests.conftest import blob_volume, bright_model
from tests.engines.conftest import FakeMachine
from tests.fakes.cuda import Error
from tests.fakes.driver import FakeDriver
from tests.fakes.tensorrt import FakeRuntime, FakeTensorRT, FakeTensorRtRtx
from tests.threads import in_threads


def test_probe(fake_machine: FakeMachine) -> None:
    found = probe("tensorrt")
    assert found.usable
    assert found.reason == "tensorrt 10.16.1.11"
    assert found.versions["driver"] == "580.1"


def test_auto_takes_it_and_checks_it(fake_machine: FakeMachine, bright_bundle: Path) -> None:
    volume, ball = blob_volume()
    with Predictor.load(bright_bundle) as predictor:
        result = predictor.predict(volume)
    assert result.provenance.engine.backend == "tensorrt"
    assert result.provenance.engine.provider == (
        "tensorrt on NVIDIA Fake 3060 (SM 86, 12 GB, PCI 0000:1b:00.0)"
    )
    assert result.provenance.verification is not None
    assert result.provenance.verification.passed
    assert not any("rebuilt" in str(each) for each in result.warnings)
    found = result.mask.data.astype(bool)
    assert 2 * (found & ball).sum() / (found.sum() + ball.sum()) > 0.9
    assert fake_machine.cuda.leaks == 0


def test_one_that_disagrees_with_the_network_is_not_used(
    fake_machine: FakeMachine, bright_bundle: Path
) -> None:
    assert fake_machine.tensorrt is not None
    fake_machine.tensorrt.comes_out_black = True
    with Predictor.load(bright_bundle) as predictor:
        assert predictor.engine.describe().backend in ("openvino", "ort")
        (warning,) = predictor.selection.warnings
    assert "tensorrt fp32 should run here but was skipped" in warning.text
    with pytest.raises(VerificationError, match="disagrees with the network"):
        Predictor.load(bright_bundle, strict_backend=True)
    assert fake_machine.cuda.leaks == 0


def test_a_plan_is_built_once_until_the_driver_changes(
    fake_machine: FakeMachine, bright_bundle: Path
) -> None:
    bundle = Bundle.open(bright_bundle)
    for _ in range(2):
        with open_engine(bundle, "tensorrt", "fp32") as engine:
            assert engine.describe().warnings == ()
    assert fake_machine.built == ["1,16,16"]
    fake_machine.install_driver(FakeDriver(version="590.2"))
    with open_engine(bundle, "tensorrt", "fp32") as engine:
        (warning,) = engine.describe().warnings
    assert warning == "the engine was rebuilt: driver was 580.1, is 590.2"
    assert fake_machine.built == ["1,16,16"] * 2
    (timing,) = open_store().folder.glob("timing-*")
    assert timing.read_bytes() == b"measured;measured;"


def test_the_cache_is_the_users_alone(fake_machine: FakeMachine, bright_bundle: Path) -> None:
    open_engine(Bundle.open(bright_bundle), "tensorrt", "fp32").close()
    folder = open_store().folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(BackendUnavailableError, match="chmod 700"):
        open_engine(Bundle.open(bright_bundle), "tensorrt", "fp32")


def test_a_full_disk_is_no_reason_to_stop(
    fake_machine: FakeMachine, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OutputError("no space left on device")

    monkeypatch.setattr(plans, "write_all", full)
    with Predictor.load(bright_bundle) as predictor:
        assert predictor.engine.describe().backend in ("openvino", "ort")
        assert any("no space left" in str(each) for each in predictor.selection.warnings)


def test_full_memory_is_in_the_report(fake_machine: FakeMachine, bright_bundle: Path) -> None:
    images_and_answers_of_eight = 2 * 8 * 4 * 160 * 160
    fake_machine.cuda.limit = images_and_answers_of_eight + 20_000
    images = np.random.default_rng(0).random((20, 1, 160, 160), np.float32)
    with open_engine(Bundle.open(bright_bundle), "tensorrt", "fp32") as engine:
        engine.run(images)
        (warning,) = Selection(engine).warnings
    assert warning.code == "W-ENGINE"
    assert warning.text.endswith("continuing with batches of 8 slices")


def test_a_plan_that_is_refused_leaves_nothing(
    fake_machine: FakeMachine, bright_bundle: Path
) -> None:
    assert fake_machine.tensorrt is not None
    fake_machine.tensorrt.refuses_plans = True
    for builds in (1, 2):
        with pytest.raises(BackendUnavailableError, match="made by another version"):
            open_engine(Bundle.open(bright_bundle), "tensorrt", "fp32")
        assert len(fake_machine.built) == builds
    assert fake_machine.cuda.leaks == 0


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_a_cached_plan_that_is_refused_is_built_again(
    fake_machine: FakeMachine, bright_bundle: Path, flavour: str
) -> None:
    fake_machine.rtx = FakeTensorRtRtx(fake_machine.cuda)
    trt = fake_machine.rtx if flavour == "tensorrt-rtx" else fake_machine.tensorrt
    assert trt is not None
    bundle = Bundle.open(bright_bundle)
    open_engine(bundle, flavour, "fp32").close()
    (entry,) = open_store().entries()
    trt.refused.append(entry.path.read_bytes())
    for warnings in ((f"the engine was rebuilt: TensorRT refused {entry.path.name}",), ()):
        with open_engine(bundle, flavour, "fp32") as engine:
            assert engine.describe().warnings == warnings
            assert engine.run(np.ones((1, 1, 160, 160), np.float32)).min() > 0.9
        assert len(fake_machine.built) == 2
    assert fake_machine.cuda.leaks == 0


def test_a_cached_plan_is_kept_where_only_memory_is_missing(
    fake_machine: FakeMachine, bright_bundle: Path
) -> None:
    assert fake_machine.tensorrt is not None
    bundle = Bundle.open(bright_bundle)
    open_engine(bundle, "tensorrt", "fp32").close()
    fake_machine.tensorrt.refuses_plans = True
    fake_machine.tensorrt.complaint = "Requested amount of GPU memory could not be allocated"
    with pytest.raises(BackendUnavailableError, match="could not be allocated"):
        open_engine(bundle, "tensorrt", "fp32")
    assert len(fake_machine.built) == 1


def test_another_package_or_card_of_the_same_name_has_plans_of_its_own(
    fake_machine: FakeMachine, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bright_bundle)
    packages = {"tensorrt": "10.16.1.11", "tensorrt-cu12": "10.16.1.11"}
    monkeypatch.setattr(Flavour, "installed", lambda _self: packages)
    open_engine(bundle, "tensorrt", "fp32").close()
    packages["tensorrt-cu13"] = packages.pop("tensorrt-cu12")
    with open_engine(bundle, "tensorrt", "fp32") as engine:
        (warning,) = engine.describe().warnings
    assert warning.endswith("version of TensorRT was 10.16.1.11+cu12, is 10.16.1.11+cu13")
    driver = FakeDriver()
    driver.memory = 8_000_000_000
    fake_machine.install_driver(driver)
    with open_engine(bundle, "tensorrt", "fp32") as engine:
        (warning,) = engine.describe().warnings
    assert warning.endswith("GPU was NVIDIA Fake 3060, 12 GB, is NVIDIA Fake 3060, 8 GB")


@pytest.mark.parametrize("what", ["Runtime", "deserialize_cuda_engine"])
def test_an_exception_of_tensorrt_is_our_error(
    fake_machine: FakeMachine,
    bright_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    def fail(*_arguments: object) -> None:
        raise TypeError("pybind11 says no")

    monkeypatch.setattr(FakeTensorRT if what == "Runtime" else FakeRuntime, what, fail)
    with pytest.raises(BackendUnavailableError, match="cannot load the engine: pybind11 says no"):
        open_engine(Bundle.open(bright_bundle), "tensorrt", "fp32")
    assert fake_machine.cuda.leaks == 0


def test_a_build_that_takes_long_is_announced(
    fake_machine: FakeMachine, bright_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        open_engine(Bundle.open(bright_bundle), "tensorrt", "fp32").close()
    (record,) = caplog.records
    assert (
        "for NVIDIA Fake 3060 (SM 86, 12 GB, PCI 0000:1b:00.0): this takes minutes"
        in record.getMessage()
    )


def test_threads_share_a_predictor(fake_machine: FakeMachine, bright_bundle: Path) -> None:
    volumes = [blob_volume(radius_mm=radius)[0] for radius in (6.0, 8.0, 10.0, 12.0)]
    with Predictor.load(bright_bundle, "tensorrt") as predictor:
        alone = [predictor.predict(volume).probabilities.data for volume in volumes]
        for _ in range(3):
            found = in_threads(4, lambda index: predictor.predict(volumes[index]))
            for result, expected in zip(found, alone, strict=True):
                assert np.array_equal(result.probabilities.data, expected)
    assert fake_machine.cuda.leaks == 0


def test_after_a_lost_gpu_threads_go_on(fake_machine: FakeMachine, bright_bundle: Path) -> None:
    volumes = [blob_volume(radius_mm=radius)[0] for radius in (6.0, 8.0, 10.0, 12.0)]
    with Predictor.load(bright_bundle) as predictor:
        alone = [predictor.predict(volume).mask.data for volume in volumes]
        fake_machine.cuda.failure = Error.cudaErrorUnknown
        found = in_threads(4, lambda index: predictor.predict(volumes[index]))
    for result, expected in zip(found, alone, strict=True):
        assert result.provenance.engine.backend in ("openvino", "ort")
        assert [each.backend for each in result.provenance.skipped][:1] == ["tensorrt"]
        assert np.array_equal(result.mask.data, expected)
    assert fake_machine.cuda.leaks == 0


def test_a_lost_gpu_is_our_error(fake_machine: FakeMachine, bright_bundle: Path) -> None:
    volume, _ = blob_volume()
    with Predictor.load(bright_bundle, "tensorrt", "fp32") as predictor:
        fake_machine.cuda.failure = Error.cudaErrorUnknown
        with pytest.raises(EngineRunError, match="nvidia-smi"):
            predictor.predict(volume)


def test_after_a_lost_gpu_auto_goes_on_and_strict_does_not(
    fake_machine: FakeMachine, bright_bundle: Path
) -> None:
    volume, ball = blob_volume()
    with (
        Predictor.load(bright_bundle) as predictor,
        Predictor.load(bright_bundle, strict_backend=True) as strict,
    ):
        fake_machine.cuda.failure = Error.cudaErrorUnknown
        with pytest.raises(EngineRunError, match="nvidia-smi"):
            strict.predict(volume)
        result = predictor.predict(volume)
    assert result.provenance.engine.backend in ("openvino", "ort")
    assert result.provenance.verification is not None
    found = result.mask.data.astype(bool)
    assert 2 * (found & ball).sum() / (found.sum() + ball.sum()) > 0.9
    warning = next(each for each in result.warnings if "tensorrt fp32" in each.text)
    assert warning.code == "W-BACKEND-PASSED"
    assert "check nvidia-smi" in warning.text
    assert to_json(Report.of(result))["passed_over"][0]["backend"] == "tensorrt"
    assert fake_machine.cuda.leaks == 0


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX mode")
def test_a_timing_cache_is_kept_beside_the_plans(
    fake_machine: FakeMachine, bright_bundle: Path
) -> None:
    open_engine(Bundle.open(bright_bundle), "tensorrt", "fp32").close()
    names = sorted(path.suffix for path in open_store().folder.iterdir())
    assert names == [".cache", ".json", ".lock", ".plan"]


def test_rtx_is_taken_where_tensorrt_is_missing(
    fake_machine: FakeMachine, rtx: FakeTensorRtRtx, bright_bundle: Path
) -> None:
    with Predictor.load(bright_bundle, strict_backend=True) as predictor:
        assert predictor.engine.describe().backend == "tensorrt-rtx"
        (passed,) = predictor.selection.skipped
        predictor.predict(blob_volume()[0])
    assert (passed.backend, passed.expected) == ("tensorrt", False)
    assert "tensorrt is not installed; to fix it: pip install tensorrt" in passed.reason
    assert "capture" not in fake_machine.cuda.deeds
    assert fake_machine.cuda.leaks == 0


def test_rtx_keeps_its_kernels_but_no_plan_for_each_driver(
    fake_machine: FakeMachine, rtx: FakeTensorRtRtx, bright_bundle: Path
) -> None:
    images = np.zeros((20, 1, 160, 160), np.float32)
    for _ in range(2):
        with open_engine(Bundle.open(bright_bundle), "tensorrt-rtx", "fp32") as engine:
            engine.run(images)
    assert rtx.compiled == [16]
    fake_machine.install_driver(FakeDriver(version="590.2"))
    with open_engine(Bundle.open(bright_bundle), "tensorrt-rtx", "fp32") as engine:
        engine.run(images)
        assert engine.describe().warnings == ()
    assert rtx.compiled == [16] * 2
    assert fake_machine.built == ["1,16,16"]
    (entry,) = open_store().entries()
    assert (entry.key.sm, entry.key.driver) == ("86", "any")
    assert len(list(open_store().folder.glob("*.blob"))) == 2


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_the_cache_is_not_used_where_a_signature_is_required(
    fake_machine: FakeMachine,
    bright_bundle: Path,
    own_cache: Path,
    caplog: pytest.LogCaptureFixture,
    flavour: str,
) -> None:
    if flavour == "tensorrt-rtx":
        fake_machine.rtx = FakeTensorRtRtx(fake_machine.cuda)
    bundle = Bundle.open(bright_bundle)
    images = np.zeros((20, 1, 160, 160), np.float32)
    with open_engine(bundle, flavour, "fp32") as engine:
        engine.run(images)
    files = {path: path.read_bytes() for path in own_cache.rglob("*") if path.is_file()}
    assert {".plan", ".json"} <= {path.suffix for path in files}
    for _ in range(2):
        with open_engine(replace(bundle, must_be_signed=True), flavour, "fp32") as engine:
            engine.run(images)
    assert len(fake_machine.built) == 3
    assert caplog.text.count("at every start") == 2
    assert files == {path: path.read_bytes() for path in own_cache.rglob("*") if path.is_file()}
    if fake_machine.rtx is not None:
        assert fake_machine.rtx.compiled == [16] * 3


def test_everything_is_warm_once_it_is_open(fake_machine: FakeMachine, bright_bundle: Path) -> None:
    assert fake_machine.tensorrt is not None
    with open_engine(Bundle.open(bright_bundle), "tensorrt", "fp32") as engine:
        contexts = fake_machine.tensorrt.contexts
        captured = fake_machine.cuda.deeds.count("capture")
        assert contexts == captured == 3
        for count in (1, 4, 5, 9, 16, 17, 40):
            engine.run(np.zeros((count, 1, 160, 160), np.float32))
        assert fake_machine.tensorrt.contexts == contexts
        assert fake_machine.cuda.deeds.count("capture") == captured


def test_an_engine_that_does_not_run_is_not_opened(
    fake_machine: FakeMachine, bright_bundle: Path
) -> None:
    assert fake_machine.tensorrt is not None
    fake_machine.tensorrt.fails_to_run = True
    with pytest.raises(BackendUnavailableError, match="does not run here: TensorRT failed to run"):
        open_engine(Bundle.open(bright_bundle), "tensorrt", "fp32")
    assert fake_machine.cuda.leaks == 0


def test_kernels_survive_a_process_that_is_killed(
    fake_machine: FakeMachine, rtx: FakeTensorRtRtx, bright_bundle: Path
) -> None:
    with open_engine(Bundle.open(bright_bundle), "tensorrt-rtx", "fp32"):
        assert len(list(open_store().folder.glob("*.blob"))) == 1


def test_rtx_compiles_once_for_each_size_of_image(
    fake_machine: FakeMachine, rtx: FakeTensorRtRtx
) -> None:
    model = ModelFile("fp32", bright_model(extents=("height", "width")), (96, 128, 160))
    with TensorRtRtxEngine.open(model, Precision.FP32, 1) as engine:
        assert engine.padded_sizes == (16,)
        assert rtx.compiled == [16] * 9
        for count in (1, 5, 17):
            engine.run(np.zeros((count, 1, 96, 128), np.float32))
    assert rtx.compiled == [16] * 9


def test_rtx_says_why_an_engine_cannot_run(
    fake_machine: FakeMachine, rtx: FakeTensorRtRtx, bright_bundle: Path
) -> None:
    rtx.refuses_plans = True
    with pytest.raises(BackendUnavailableError, match=r"\(UNSUPPORTED_CC, OLD_CUDA_DRIVER\)"):
        open_engine(Bundle.open(bright_bundle), "tensorrt-rtx", "fp32")
    assert fake_machine.cuda.leaks == 0
