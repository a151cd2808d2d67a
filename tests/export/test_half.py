"""Networks in float16, and PyTorch, which computes them where ONNX Runtime does not."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, shape_inference

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import run_all
from cnnres_infer.verification.agreement import GATES, Agreement, load_reference
from export.half import in_half
from export.onnx_graph import constants_of
from export.torch_graph import TorchGraph
from export.volume_outputs import torch_engine
from tests.calibration.conftest import computed, small_network


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return small_network()


@pytest.fixture(scope="module")
def images() -> FloatArray:
    return np.random.default_rng(1).random((4, 1, 32, 32), np.float32)


def types(model: onnx.ModelProto) -> dict[str, int]:
    graph = shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    found = {each.name: each.type.tensor_type.elem_type for each in values}
    return found | {each.name: each.data_type for each in graph.initializer}


def in_pytorch(model: onnx.ModelProto, images: FloatArray) -> FloatArray:
    with torch.no_grad():
        output: FloatArray = TorchGraph(model)(torch.from_numpy(images)).numpy()
    return output


def test_only_the_first_block_and_the_sigmoid_are_float32(network: onnx.ModelProto) -> None:
    model = in_half(network)
    single = {name for name, kind in types(model).items() if kind == TensorProto.FLOAT}
    assert single == {
        *("images", "stem.weight", "stem.bias", "stem", "stem_relu", "pool.single"),
        *("scales", "head.single", "probabilities"),
    }
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert [node.output[0] for node in casts] == ["pool", "head.single"]


def test_constants_that_both_parts_take_are_stored_twice(network: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(network)
    nodes = {node.name: node for node in model.graph.node}
    nodes["conv1"].input[2] = nodes["conv2"].input[2] = "stem.bias"
    constants = constants_of(in_half(model))
    assert constants["stem.bias"].dtype == np.float32
    assert np.array_equal(constants["stem.bias.half"], constants["stem.bias"].astype(np.float16))


def test_pytorch_rounds_as_numpy_does(network: onnx.ModelProto, images: FloatArray) -> None:
    """ONNX Runtime computes one node at a time, in float32, of inputs that numpy has rounded."""
    model = in_half(network)
    kinds, values = types(model), {"images": images, **constants_of(model)}
    for node in model.graph.node:
        (name,) = node.output
        feeds = {each: values[each].astype(np.float32) for each in node.input if each}
        output = feeds[node.input[0]] if node.op_type == "Cast" else alone(node, feeds)
        kind = np.float16 if kinds[name] == TensorProto.FLOAT16 else np.float32
        values[name] = output.astype(kind)
    ours, expected = in_pytorch(model, images), values["probabilities"]
    # Where sums come out in another order, a value may be rounded to the next number.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-3)
    assert (
        np.abs(ours - expected).mean() < 0.2 * np.abs(computed(network, images) - expected).mean()
    )


def alone(node: onnx.NodeProto, feeds: dict[str, FloatArray]) -> FloatArray:
    """A node in ONNX Runtime."""
    graph = onnx.helper.make_graph(
        [node],
        "alone",
        [onnx.helper.make_tensor_value_info(name, 1, each.shape) for name, each in feeds.items()],
        [onnx.helper.make_tensor_value_info(node.output[0], 1, None)],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, feeds)[0])


def test_nothing_is_rounded_in_a_float32_network(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    np.testing.assert_allclose(
        in_pytorch(network, images), computed(network, images), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_the_built_in_files_for_gpus_agree_with_float32(precision: Precision) -> None:
    bundle = Bundle.open()
    if precision == "int8" and "int8-trt" not in bundle.variants:
        pytest.skip("it has no int8-trt")
    images, expected = (each[::4] for each in load_reference(bundle))
    with torch_engine(bundle, precision=precision) as engine:
        info, output = engine.describe(), run_all(engine, images)
    assert (info.backend, info.precision) == ("torch", precision)
    agreement = Agreement.of(output, expected, bundle.spec.mask)
    assert agreement.passes(GATES[precision])
    assert 1e-4 < agreement.largest_difference < (0.05 if precision == "fp16" else 0.5)
