from pathlib import Path

import pytest

from cnnres_infer import Predictor
from tests.conftest import BundleMaker
from tests.pipeline.shining_head import BOUNDS


@pytest.fixture(scope="module")
def bounded(make_bundle: BundleMaker) -> Predictor:
    bundle = make_bundle(diffusion=BOUNDS)
    return Predictor.load(bundle, backend="ort", precision="fp32", threads=1)


@pytest.fixture(scope="module")
def unbounded(bright_bundle: Path) -> Predictor:
    return Predictor.load(bright_bundle, backend="ort", precision="fp32", threads=1)
