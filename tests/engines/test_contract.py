"""Every backend keeps the contract: the CPU backends as they are, NVIDIA's on fakes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import BACKENDS, NVIDIA, backend
from cnnres_infer.engines.base import Engine, ModelFile
from cnnres_infer.errors import PrecisionUnavailableError
from tests.conftest import bright_model
from tests.engines.conftest import FakeMachine
from tests.engines.contract import SEAMS, SIDES, EngineContract, Subject, seam_of
from tests.fakes.tensorrt import FakeTensorRtRtx

# The model is in float32, and the sigmoid's slope of 60 makes much of small errors.
TOLERANCES = {Precision.BF16: 0.15}


FLEXIBLE = bright_model(extents=("height", "width"))


def openers(name: str, precision: Precision) -> tuple[Callable[[], Engine], Callable[[], Engine]]:
    """What opens an engine for images of one size, and for several."""
    engine_class = backend(name)
    variant = engine_class.VARIANTS[precision][0]
    files = ModelFile(variant, bright_model()), ModelFile(variant, FLEXIBLE, SIDES)
    one, several = (partial(engine_class.open, file, precision, 2) for file in files)
    return one, several


def on_the_cpu(name: str, precision: Precision) -> Subject:
    if not backend(name).probe().usable:
        pytest.skip(backend(name).probe().reason)
    opened = openers(name, precision)
    try:
        opened[0]().close()
    except PrecisionUnavailableError as error:
        pytest.skip(str(error))
    return Subject(name, precision, *opened, seam_of(name), TOLERANCES.get(precision, 1e-5))


def in_pytorch() -> Subject:
    torch = pytest.importorskip("torch")
    from network.cnnres import CNNRes
    from network.engine import TorchEngine

    class Bright(CNNRes):
        def forward(self, x: Any) -> Any:
            return torch.sigmoid(60.0 * (x.mean(1, keepdim=True) - 0.8))

    network = Bright()
    return Subject(
        "torch",
        Precision.FP32,
        lambda: TorchEngine(network, 2),
        lambda: TorchEngine(network, 2, sides=SIDES),
        (Bright, "forward"),
        any_size=True,
    )


def on_fakes(name: str, request: pytest.FixtureRequest) -> Subject:
    machine: FakeMachine = request.getfixturevalue("fake_machine")
    request.getfixturevalue("fake_providers")
    machine.rtx = FakeTensorRtRtx(machine.cuda)
    return Subject(name, Precision.FP32, *openers(name, Precision.FP32), seam_of(name))


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
