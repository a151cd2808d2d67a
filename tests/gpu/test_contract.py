"""NVIDIA's backends keep the contract on a real GPU, too."""

from functools import partial
from pathlib import Path

import pytest

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import NVIDIA, backend, probe
from cnnres_infer.engines.base import ModelFile
from cnnres_infer.selection.offers import open_engine
from tests.conftest import bright_model
from tests.engines.contract import SIDES, EngineContract, Subject, seam_of

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]


@pytest.fixture(params=NVIDIA)
def subject(request: pytest.FixtureRequest, bright_bundle: Path) -> Subject:
    name = str(request.param)
    found = probe(name)
    if not found.usable:
        pytest.skip(f"{name}: {found.reason}")
    open_it = partial(open_engine, Bundle.open(bright_bundle), name, "fp32")
    flexible = ModelFile("fp32", bright_model(extents=("height", "width")), SIDES)
    open_flexible = partial(backend(name).open, flexible, Precision.FP32, 1)
    return Subject(name, Precision.FP32, open_it, open_flexible, seam_of(name), tolerance=1e-3)


class TestContract(EngineContract):
    """See `EngineContract`."""
