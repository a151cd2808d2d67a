"""NVIDIA's backends keep the contract on the GPU at hand, too."""

from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import NVIDIA, probe
from cnnres_infer.engines.tensorrt.cuda import Cuda
from cnnres_infer.selection.offers import open_engine
from tests.engines.contract import EngineContract, Subject

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

SEAMS: dict[str, tuple[Any, str]] = {
    "tensorrt": (Cuda, "wait"),
    "tensorrt-rtx": (Cuda, "wait"),
    "ort-tensorrt": (onnxruntime.InferenceSession, "run_with_iobinding"),
    "ort-tensorrt-rtx": (onnxruntime.InferenceSession, "run"),
    "ort-cuda": (onnxruntime.InferenceSession, "run_with_iobinding"),
}


@pytest.fixture(params=NVIDIA)
def subject(request: pytest.FixtureRequest, bright_bundle: Path) -> Subject:
    name = str(request.param)
    found = probe(name)
    if not found.usable:
        pytest.skip(f"{name}: {found.reason}")
    open_it = partial(open_engine, Bundle.open(bright_bundle), name, "fp32")
    return Subject(name, Precision.FP32, open_it, SEAMS[name], tolerance=1e-3)


class TestContract(EngineContract):
    """See `EngineContract`."""
