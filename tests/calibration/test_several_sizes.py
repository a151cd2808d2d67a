"""A network whose slices are cut to the brain is quantised and run in every size."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from calibration.blocks import layers
from calibration.plan import SCHEMES
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.crops import box_shape, crop_box
from cnnres_infer.engines.base import run_all
from export.onnx_model import to_onnx
from export.passes import rewritten
from network.cnnres import folded
from tests.calibration.conftest import min_max
from tests.narrow import narrow_network

SIDES = (96, 128, 160)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load_from_string(to_onnx(folded(narrow_network()), 1, SIDES))


@pytest.fixture(scope="module")
def images() -> FloatArray:
    images = np.zeros((6, 1, 160, 160), np.float32)
    rng = np.random.default_rng(0)
    for image, side in zip(images, (60, 90, 110, 128, 140, 150), strict=True):
        image[0, :side, 10 : 10 + 2 * side // 3] = rng.random((side, 2 * side // 3))
    return images


def test_shares_of_layers_do_not_need_a_size(model: onnx.ModelProto) -> None:
    fixed = onnx.load_from_string(to_onnx(folded(narrow_network()), 1, [160]))
    shares = [[layer.share for layer in layers(each)] for each in (model, fixed)]
    assert shares[0] == pytest.approx(shares[1])


@pytest.mark.parametrize("variant", SCHEMES)
def test_a_candidate_runs_in_every_size(
    model: onnx.ModelProto, images: FloatArray, variant: str
) -> None:
    scheme = SCHEMES[variant]
    candidate = replace(min_max(rewritten(model, scheme.passes), images, scheme), sides=SIDES)
    assert len({box_shape(image, SIDES) for image in images}) == 4
    with candidate.engine() as engine:
        output = run_all(engine, images)
    for image, answer in zip(images, output, strict=True):
        box = crop_box(image, SIDES)
        assert answer[:, *box].min() > 0
        answer[:, *box] = 0
    assert not output.any()
    if (openvino := candidate.openvino_engine()) is not None:
        with openvino:
            assert run_all(openvino, images).any(axis=(1, 2, 3)).all()
