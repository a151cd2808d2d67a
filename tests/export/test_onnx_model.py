import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from cnnres_infer.core.arrays import FloatArray
from export.onnx_model import variants
from network.cnnres import CNNRes, folded
from tests.narrow import narrow_network


@pytest.fixture(scope="module", params=[1, 2])
def network(request: pytest.FixtureRequest) -> CNNRes:
    return narrow_network(request.param)


@pytest.fixture(scope="module")
def models(network: CNNRes) -> dict[str, bytes]:
    return variants(network, [160])


def answer(network: nn.Module, images: FloatArray) -> FloatArray:
    with torch.inference_mode():
        output: FloatArray = network(torch.from_numpy(images)).numpy()
    return output


def test_folding_is_exact(network: CNNRes) -> None:
    images = np.random.default_rng(0).random((2, network.in_channels, 160, 160), np.float32)
    before = copy.deepcopy(network.state_dict())
    small = folded(network)
    np.testing.assert_allclose(answer(small, images), answer(network, images), atol=2e-6)
    assert np.ptp(answer(small, images)) > 0.3
    np.testing.assert_array_equal(answer(folded(small), images), answer(small, images))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("variant", "bound"), [("fp32", 1e-5), ("fp32-cpu", 1e-5), ("fp16", 2e-2)])
def test_onnx_runtime_agrees_for_any_batch(
    network: CNNRes, models: dict[str, bytes], variant: str, bound: float
) -> None:
    session = onnxruntime.InferenceSession(models[variant], providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    for count in (1, 3):
        images = rng.random((count, network.in_channels, 160, 160), np.float32)
        (output,) = session.run(None, {"images": images})
        assert output.dtype == np.float32
        assert output.shape == (count, 1, 160, 160)
        assert np.abs(output - answer(network, images)).max() <= bound


def test_the_files_are_clean(models: dict[str, bytes]) -> None:
    for variant, content in models.items():
        model = onnx.load_from_string(content)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
        assert not model.metadata_props
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
        assert all(not t.external_data for t in model.graph.initializer)
        kinds = [node.op_type for node in model.graph.node]
        assert kinds.count("Conv") == 22
        assert kinds.count("BatchNormalization") == 5
        kernels = [t for t in model.graph.initializer if len(t.dims) == 4]
        single = [t.name for t in kernels if t.data_type == onnx.TensorProto.FLOAT]
        half = [t.name for t in kernels if t.data_type == onnx.TensorProto.FLOAT16]
        expected = {"fp32": (22, 0), "fp32-cpu": (26, 0), "fp16": (1, 21)}
        assert (len(single), len(half)) == expected[variant]
        assert "translations.0." in single[0]
        del model.graph.initializer[:]
        rest = model.SerializeToString()
        for trace in (b".py", b"site-packages", b"/root", b"/home", b"torch"):
            assert trace not in rest
