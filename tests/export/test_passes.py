"""Rewritten graphs compute what the original ones do."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from calibration.plan import INT8_CPU
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.verification.agreement import load_reference
from export.onnx_model import PASSES_OF, variant_of
from export.passes import PASSES, rewritten
from export.torch_graph import TorchGraph
from tests.calibration.conftest import computed, small_network

SEQUENCES = [
    *((name,) for name in PASSES),
    INT8_CPU.passes,
    *PASSES_OF.values(),
    ("head-before-upsampling", "upsampling-to-transposed-convs", "batch-norms-to-convs"),
]
ALL = pytest.mark.parametrize("passes", SEQUENCES, ids=" ".join)


@pytest.fixture(scope="module")
def shipped() -> tuple[onnx.ModelProto, FloatArray]:
    """The built-in network and slices of synthetic brains, some with lesion."""
    bundle = Bundle.open()
    return onnx.load_from_string(bundle.model("fp32")), load_reference(bundle)[0][::8]


@ALL
def test_random_images(passes: tuple[str, ...]) -> None:
    network = small_network(seed=3)
    images = np.random.default_rng(4).random((4, 1, 32, 32), np.float32)
    output = computed(rewritten(network, passes), images)
    expected = computed(network, images)
    assert expected.std() > 0.05
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-6)


@ALL
def test_slices(passes: tuple[str, ...], shipped: tuple[onnx.ModelProto, FloatArray]) -> None:
    network, images = shipped
    output, expected = computed(rewritten(network, passes), images), computed(network, images)
    assert (expected > 0.5).any()
    np.testing.assert_allclose(output, expected, rtol=0, atol=3e-6)


@ALL
def test_the_algebra_in_double_precision(passes: tuple[str, ...]) -> None:
    """All that differs is that weights which are sums are rounded to float32 once."""
    network = small_network(seed=5)
    images = torch.rand(2, 1, 32, 32, dtype=torch.double)
    with torch.no_grad():
        output, expected = (
            TorchGraph(model).double()(images) for model in (rewritten(network, passes), network)
        )
    torch.testing.assert_close(output, expected, rtol=0, atol=2e-7)


def test_the_operators_that_remain(shipped: tuple[onnx.ModelProto, FloatArray]) -> None:
    network, _ = shipped
    before = Counter(node.op_type for node in network.graph.node)
    after = {
        name: Counter(node.op_type for node in PASSES[name](network).graph.node) for name in PASSES
    }
    assert before["Resize"] == before["BatchNormalization"] == 5
    assert after["batch-norms-to-convs"]["BatchNormalization"] == 0
    assert after["head-before-upsampling"]["Resize"] == 4
    assert after["head-to-matmul"]["Conv"] == before["Conv"] - 1
    transposed = after["upsampling-to-transposed-convs"]
    assert (transposed["Resize"], transposed["Concat"]) == (0, 0)
    assert (transposed["ConvTranspose"], transposed["Conv"]) == (5, before["Conv"] - 1)


def test_the_built_in_variants_are_their_rewritings() -> None:
    bundle = Bundle.open()
    passes = bundle.manifest["export"]["passes"]
    assert set(passes) == set(PASSES_OF) <= set(bundle.variants)
    assert {variant: tuple(names) for variant, names in passes.items()} == PASSES_OF
    for variant in PASSES_OF:
        assert bundle.model(variant) == variant_of(bundle.model("fp32"), variant)


@ALL
def test_tied_and_missing_biases(passes: tuple[str, ...]) -> None:
    """Exporters give equal biases one name, and leave out those that are zero."""
    network = small_network(seed=6)
    convs = {node.name: node for node in network.graph.node if node.op_type == "Conv"}
    convs["last"].input[2] = convs["expand"].input[2] = convs["stem"].input[2]
    del convs["head"].input[2:], convs["bottom"].input[2:]
    images = np.random.default_rng(7).random((2, 1, 32, 32), np.float32)
    output, expected = computed(rewritten(network, passes), images), computed(network, images)
    assert expected.std() > 0.05
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-6)
    del convs["last"].input[2:], convs["expand"].input[2:]
    output, expected = computed(rewritten(network, passes), images), computed(network, images)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-6)


def test_a_missing_bias_beside_a_single_missing_input() -> None:
    """Both are the empty name in ONNX."""
    network = small_network(seed=8)
    resizes = [node for node in network.graph.node if node.op_type == "Resize"]
    network.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), "roi"))
    for node in resizes[:-1]:
        node.input[1] = "roi"
    (head,) = [node for node in network.graph.node if node.name == "head"]
    del head.input[2:]
    for name in ("head-before-upsampling", "head-to-matmul"):
        PASSES[name](network)


def test_a_network_with_another_end_is_refused() -> None:
    network = small_network()
    with pytest.raises(ValueError, match="does not end in upsampling"):
        PASSES["head-before-upsampling"](PASSES["head-before-upsampling"](network))
