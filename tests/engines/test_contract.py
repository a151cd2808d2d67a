"""Every backend keeps the contract: the CPU backends as they are, NVIDIA's on fakes."""

from collections.abc import Callable
from typing import Any

import pytest

from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import BACKENDS, NVIDIA, backend
from cnnres_infer.engines.base import Engine, ModelFile
from cnnres_infer.errors import PrecisionUnavailableError
from tests.conftest import bright_model
from tests.engines.conftest import FakeMachine
from tests.engines.contract import SEAMS, EngineContract, Subject, seam_of
from tests.fakes.tensorrt import FakeTensorRtRtx

# The model is in float32, and the sigmoid's slope of 60 makes much of small errors.
TOLERANCES = {Precision.BF16: 0.15}


def opener(name: str, precision: Precision) -> Callable[[], Engine]:
    engine_class = backend(name)
    variant = engine_class.VARIANTS[precision][0]
    return lambda: engine_class.open(ModelFile(variant, bright_model()), precision, 2)


def on_the_cpu(name: str, precision: Precision) -> Subject:
    if not backend(name).probe().usable:
        pytest.skip(backend(name).probe().reason)
    open_it = opener(name, precision)
    try:
        open_it().close()
    except PrecisionUnavailableError as error:
        pytest.skip(str(error))
    return Subject(name, precision, open_it, seam_of(name), TOLERANCES.get(precision, 1e-5))


def in_pytorch() -> Subject:
    torch = pytest.importorskip("torch")
    from network.cnnres import CNNRes
    from network.engine import TorchEngine

    class Bright(CNNRes):
        def forward(self, x: Any) -> Any:
            return torch.sigmoid(60.0 * (x.mean(1, keepdim=True) - 0.8))

    network = Bright()
    return Subject(
        "torch", Precision.FP32, lambda: TorchEngine(network, 2), (Bright, "forward"), any_size=True
    )


def on_fakes(name: str, request: pytest.FixtureRequest) -> Subject:
    machine: FakeMachine = request.getfixturevalue("fake_machine")
    request.getfixturevalue("fake_providers")
    machine.rtx = FakeTensorRtRtx(machine.cuda)
    return Subject(name, Precision.FP32, opener(name, Precision.FP32), seam_of(name))


SUBJECTS = [
    *((name, precision) for name in BACKENDS for precision in backend(name).VARIANTS
      if name not in NVIDIA),
    *((name, Precision.FP32) for name in NVIDIA),
    ("torch", Precision.FP32),
]  # fmt: skip


@pytest.fixture(params=SUBJECTS, ids=lambda pair: "-".join(pair))
def subject(request: pytest.FixtureRequest) -> Subject:
    name, precision = request.param
    if name == "torch":
        return in_pytorch()
    return on_fakes(name, request) if name in NVIDIA else on_the_cpu(name, precision)


class TestContract(EngineContract):
    """See `EngineContract`."""


def test_all_backends_are_here() -> None:
    assert {name for name, _ in SUBJECTS} == {*BACKENDS, "torch"}
    assert list(SEAMS) == list(BACKENDS)
