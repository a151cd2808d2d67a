"""TensorRT on machines whose GPU, driver or packages do not go together, or with several GPUs."""

from pathlib import Path
from typing import Any

import pytest

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.engines import probe
from cnnres_infer.engines.nvidia.device import DEVICE
from cnnres_infer.engines.tensorrt import plan
from cnnres_infer.engines.tensorrt.api import Flavour
from cnnres_infer.errors import (
    BackendUnavailableError,
    EngineRunError,
    PrecisionUnavailableError,
)
from cnnres_infer.predictor import Predictor
from cnnres_infer.selection import autotune
from cnnres_infer.selection.autotune import fastest_first
from cnnres_infer.selection.offers import open_engine
from tests.conftest import BundleMaker
from tests.engines.conftest import FakeMachine
from tests.fakes.driver import FakeDriver
from tests.fakes.tensorrt import FakeTensorRtRtx


@pytest.mark.parametrize(
    ("capability", "name"), [((9, 0), "tensorrt-rtx"), ((8, 7), "tensorrt-rtx"),
                             ((9, 0), "ort-tensorrt-rtx"), ((8, 0), "ort-tensorrt-rtx"),
                             ((7, 5), "ort-tensorrt-rtx")],
)  # fmt: skip
def test_rtx_does_not_exist_for_other_gpus(
    fake_machine: FakeMachine,
    rtx: FakeTensorRtRtx,
    fake_providers: object,
    capability: tuple[int, int],
    name: str,
) -> None:
    driver = FakeDriver()
    driver.capability = dict(zip(("major", "minor"), capability, strict=True))
    fake_machine.install_driver(driver)
    found = probe(name)
    assert not found.usable
    written = ".".join(map(str, capability))
    assert f"does not exist for compute capability {written} (NVIDIA Fake 3060)" in found.reason
    assert "use another `backend`" in found.remedy
    assert found.absent


def test_rtx_has_no_int8_for_turing_and_does_not_try(
    fake_machine: FakeMachine, rtx: FakeTensorRtRtx, make_bundle: BundleMaker
) -> None:
    driver = FakeDriver()
    driver.capability = {"major": 7, "minor": 5}
    fake_machine.install_driver(driver)
    variants = dict.fromkeys(("fp16", "int8-trt"), "model.fp32.onnx")
    bundle = Bundle.open(make_bundle(variants=variants))
    with pytest.raises(PrecisionUnavailableError, match=r"no INT8 kernels .* 7\.5"):
        open_engine(bundle, "tensorrt-rtx", "int8")
    assert fake_machine.built == []
    assert fastest_first(bundle, "tensorrt-rtx") == ("fp16", "int8")
    assert fake_machine.built == ["1,16,16"]


@pytest.mark.parametrize(
    ("seconds", "selected"), [(1.1, "fp16"), (0.97, "fp16"), (None, "fp16"), (0.9, "int8")]
)
def test_auto_takes_fp16_until_int8_was_measured_faster(
    fake_machine: FakeMachine,
    make_bundle: BundleMaker,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float | None,
    selected: str,
) -> None:
    def time(_bundle: Bundle, _name: str, precision: str, _threads: int | None) -> float:
        if precision == "int8" and seconds is None:
            raise EngineRunError("it does not run")
        return 1.0 if precision == "fp16" else seconds or 0.0

    monkeypatch.setattr(autotune, "_time", time)
    variants = dict.fromkeys(("fp16", "int8-trt", "fp32"), "model.fp32.onnx")
    with Predictor.load(make_bundle(variants=variants)) as predictor:
        info = predictor.engine.describe()
    assert (info.backend, info.precision) == ("tensorrt", selected)


@pytest.mark.parametrize(
    ("driver", "runtime", "usable"),
    [(12040, 12090, True), (12040, 13050, False), (13000, 12090, True), (13000, 13050, True)],
)
def test_bindings_must_not_be_newer_than_the_driver(
    fake_machine: FakeMachine, driver: int, runtime: int, usable: bool
) -> None:
    fake_machine.install_driver(FakeDriver("550.1", cuda=driver))
    fake_machine.cuda.version = runtime
    found = probe("tensorrt")
    assert found.usable == usable
    if not usable:
        assert "cuda-bindings 13.5 needs CUDA 13, but driver 550.1" in found.reason
        assert found.remedy.startswith("pip install 'cuda-bindings==12.9.*', or update")
    assert fake_machine.cuda.streams == {}


def test_a_package_for_a_newer_cuda_is_no_use(
    fake_machine: FakeMachine, rtx: FakeTensorRtRtx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flavour, "installed", lambda _self: {"tensorrt-rtx-cu13": "1.7.1.116"})
    fake_machine.install_driver(FakeDriver("550.1", cuda=12040))
    fake_machine.cuda.version = 12090
    found = probe("tensorrt-rtx")
    assert "tensorrt_rtx 1.7.1.116 needs CUDA 13" in found.reason
    assert "pip install tensorrt-rtx-cu12" in found.remedy


def test_no_package_is_named_where_none_is_supported(
    fake_machine: FakeMachine, rtx: FakeTensorRtRtx, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_machine.install_driver(FakeDriver("470.1", cuda=11040))
    monkeypatch.setattr(Flavour, "installed", lambda _self: {"tensorrt-rtx-cu12": "1.7.1.116"})
    assert probe("tensorrt-rtx").remedy == "update the driver to 525 or newer"
    monkeypatch.setattr(Flavour, "installed", lambda _self: {})
    found = probe("tensorrt-rtx")
    assert "cuda-bindings 13.0 needs CUDA 13" in found.reason
    assert found.remedy == "update the driver to 580 or newer"


def test_a_driver_that_is_too_old_in_the_end_is_skipped(
    fake_machine: FakeMachine, bright_bundle: Path
) -> None:
    fake_machine.cuda.too_old = True
    with pytest.raises(BackendUnavailableError, match="InsufficientDriver"):
        open_engine(Bundle.open(bright_bundle), "tensorrt", "fp32")
    assert fake_machine.built == []
    with Predictor.load(bright_bundle) as predictor:
        assert predictor.engine.describe().backend in ("openvino", "ort")


def test_the_gpu_that_was_chosen_builds_and_runs(
    fake_machine: FakeMachine, bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_machine.install_driver(FakeDriver(gpus=2))
    monkeypatch.setenv(DEVICE, "1")
    built_on = []
    build = vars(plan)["build"]

    def noted(*arguments: Any, **options: Any) -> Any:
        built_on.append(fake_machine.cuda.current)
        return build(*arguments, **options)

    monkeypatch.setattr(plan, "build", noted)
    with open_engine(Bundle.open(bright_bundle), "tensorrt", "fp32") as engine:
        assert "PCI 0000:1b:00.0" in engine.describe().provider
        assert set(fake_machine.cuda.streams.values()) == {1}
    assert built_on == [1]
    assert fake_machine.cuda.current == 0
