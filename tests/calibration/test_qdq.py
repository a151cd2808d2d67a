import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from calibration.blocks import blocks, layers
from calibration.candidate import Candidate
from calibration.logit_error import LogitError
from calibration.plan import (
    INT8_CPU,
    INT8_TRT,
    QParams,
    Scheme,
    WeightScales,
    conv_names,
)
from calibration.qdq import quantised
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.engines.onnxruntime.cpu import DISABLED_OPTIMIZERS
from cnnres_infer.errors import UsageError
from export.onnx_graph import constants_of
from export.passes import rewritten
from export.tensorrt_rules import broken_rules
from export.torch_graph import TorchGraph
from tests.calibration.conftest import computed, min_max

SCHEMES = pytest.mark.parametrize("scheme", [INT8_CPU, INT8_TRT], ids=lambda s: s.variant)


def candidate(
    network: onnx.ModelProto,
    images: FloatArray,
    scheme: Scheme,
    in_float: Collection[str] = (),
) -> Candidate:
    return min_max(rewritten(network, scheme.passes), images, scheme, in_float)


def kernels(content: bytes, images: FloatArray, folder: Path) -> list[str]:
    """Operators of the nodes that ONNX Runtime ran, from its profile."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(
        content,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(DISABLED_OPTIMIZERS),
    )
    session.run(None, {"images": images})
    events = json.loads(Path(session.end_profiling()).read_text())
    return [e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time")]


def test_the_torch_graph_computes_what_the_onnx_file_does(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    with torch.no_grad():
        output = TorchGraph(network)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(output, computed(network, images), atol=1e-6)


@SCHEMES
def test_the_int8_file_computes_almost_what_the_float_network_does(
    network: onnx.ModelProto, images: FloatArray, scheme: Scheme
) -> None:
    exact = computed(network, images)
    error = np.abs(computed(candidate(network, images, scheme).onnx, images) - exact).mean()
    assert 1e-4 < error < 0.05 * exact.std()


def test_onnx_runtime_computes_every_planned_convolution_in_int8(
    network: onnx.ModelProto, images: FloatArray, tmp_path: Path
) -> None:
    made = candidate(network, images, INT8_CPU)
    ran = kernels(made.onnx, images, tmp_path)
    assert ran.count("QLinearConv") == len(made.plan.convs) - 1 == 6
    assert ran.count("MatMulIntegerToFloat") == 1  # the head
    assert ran.count("Conv") + ran.count("FusedConv") == 1  # the first
    mixed = candidate(network, images, INT8_CPU, {"last"})
    assert kernels(mixed.onnx, images, tmp_path).count("QLinearConv") == 5
    assert mixed.name == "balanced; in float: last"


@pytest.mark.parametrize("weight_scales", WeightScales)
def test_tensorrt_gets_symmetric_activations_and_float_biases(
    network: onnx.ModelProto, images: FloatArray, weight_scales: WeightScales
) -> None:
    scheme = replace(INT8_TRT, weight_scales=weight_scales)
    model = onnx.load_from_string(candidate(network, images, scheme).onnx)
    assert list(broken_rules(model)) == []
    assert [each.version for each in model.opset_import] == [19]
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    zeros = [v for name, v in constants.items() if name.endswith(".zero")]
    assert zeros
    assert all(v.dtype == np.int8 and not v.any() for v in zeros)
    producers = {node.output[0]: node for node in model.graph.node}
    stem, *convs, head = [node for node in model.graph.node if node.op_type == "Conv"]
    assert [constants[n.input[2]].dtype for n in (stem, head)] == [np.float32, np.float16]
    for conv in convs:
        images_maker, weights_maker = (producers[name] for name in conv.input[:2])
        assert {images_maker.op_type, weights_maker.op_type} == {"DequantizeLinear"}
        scale = constants[weights_maker.input[1]]
        assert scale.dtype == np.float16
        outputs = constants[weights_maker.input[0]].shape[:1]
        assert scale.shape == (outputs if weight_scales == "channels" else ())
        assert len(conv.input) == (2 if weight_scales.has_factors else 3)
    assert "BatchNormalization" in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("weight_scales", WeightScales)
def test_weights_are_rounded_to_their_steps(
    network: onnx.ModelProto, images: FloatArray, weight_scales: WeightScales
) -> None:
    scheme = replace(INT8_TRT, weight_scales=weight_scales)
    made = candidate(network, images, scheme)
    constants = constants_of(onnx.load_from_string(made.onnx))
    codes, steps = constants["expand.weight.codes"], constants["expand.weight.scale"]
    if weight_scales.has_factors:
        factors = constants["expand.factors"][:, 0, 0]
        assert factors.max() == 1
        exact = np.log2(factors) == np.rint(np.log2(factors))
        assert exact.all() == (weight_scales is WeightScales.POWERS)
        steps = steps.astype(np.float32) * factors
    steps = np.broadcast_to(steps, 8).astype(np.float32)[:, None, None, None]
    weights = constants_of(made.model)["expand.weight"]
    assert (np.abs(codes * steps - weights) <= 0.505 * steps).all()
    largest = np.abs(codes).max(axis=(1, 2, 3))
    least = {"channels": 127, "factors": 127, "powers": 64, "tensor": 1}[weight_scales]
    assert least <= largest.min() <= largest.max() == 127


def test_tensorrt_gets_8_bits_where_convolutions_take_them_or_are_added_to(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    made = candidate(network, images, INT8_TRT)
    assert made.plan.tensors.keys() == made.plan.rounded
    assert made.plan.rounded == {"pool", "norm_relu", "conv1_relu", "deep", "both", "expand_relu"}
    assert not made.plan.sharing
    producers = {n.output[0]: n for n in onnx.load_from_string(made.onnx).graph.node}
    (addition,) = (n for n in producers.values() if n.output[0] == "trunk")
    # The shortcut, but not what the convolution gives it.
    assert {producers[name].op_type for name in addition.input} == {"Conv", "DequantizeLinear"}
    # Nothing is rounded before it is concatenated, and so not twice.
    (concatenation,) = (n for n in producers.values() if n.op_type == "Concat")
    assert {producers[name].op_type for name in concatenation.input} == {"Resize", "Add"}
    mixed = candidate(network, images, INT8_TRT, {"conv1", "conv2"})
    assert mixed.plan.rounded == {"deep", "both", "expand_relu"}


def test_pooled_upsampled_and_concatenated_activations_share_their_parameters(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    plan = candidate(network, images, INT8_CPU).plan
    concatenated = {"bottom", "up", "trunk", "deep"}
    assert plan.sharing == dict.fromkeys(concatenated, "both") | {"head.channels-last": "last_relu"}
    assert plan.rounded >= {"bottom", "trunk", "expand_relu", "last_relu"}
    assert not plan.rounded & {"both", "up", "deep", "head.channels-last"}
    assert plan.qparams("up") is plan.qparams("trunk")
    assert plan.qparams("expand") is None  # fused with its ReLU
    assert plan.qparams("stem_relu") is None  # the first convolution is followed by pooling
    assert plan.qparams("head.product") is None  # a matrix product gives floats


def test_all_may_be_kept_in_float(network: onnx.ModelProto, images: FloatArray) -> None:
    names = {layer.name for layer in layers(rewritten(network, INT8_CPU.passes))}
    bare = candidate(network, images, INT8_CPU, names)
    assert bare.plan.convs == frozenset()
    assert not bare.plan.tensors
    assert bare.share_in_int8 == 0


def test_quantisation_parameters_cover_zero_and_both_ends() -> None:
    assert QParams.covering(-1.0, 3.0, INT8_CPU) == QParams(4 / 255, 64)
    assert QParams.covering(2.0, 3.0, INT8_CPU) == QParams(3 / 255, 0)
    assert QParams.covering(-2.0, 1.0, INT8_TRT) == QParams(float(np.float16(2 / 127)), 0)
    assert QParams.covering(0.0, 1e-5, INT8_TRT) == QParams(2.0**-14, 0)  # a normal number


def test_weights_are_quantised_per_output_channel(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    made = candidate(network, images, INT8_CPU)
    model = quantised(made.model, made.plan)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    codes, scale = constants["last.weight.codes"], constants["last.weight.scale"]
    assert codes.dtype == np.int8
    assert (np.abs(codes).max(axis=(1, 2, 3)) == 127).all()
    weights = {t.name: numpy_helper.to_array(t) for t in made.model.graph.initializer}
    error = codes * scale[:, None, None, None] - weights["last.weight"]
    assert (np.abs(error) <= 0.5001 * scale[:, None, None, None]).all()
    assert constants["last.bias.codes"].dtype == np.int32


def test_activations_between_float_nodes_are_not_quantised(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    mixed = candidate(network, images, INT8_CPU, {"norm.gain", "conv1", "conv2"})
    among_floats = {"images", "stem_relu", "pool", "norm_relu", "conv1_relu", "conv2"}
    assert not among_floats & {*mixed.plan.tensors, *mixed.plan.sharing, *mixed.plan.rounded}
    assert {"trunk", "bottom"} <= mixed.plan.rounded  # taken by convolutions in INT8


def test_blocks_hold_all_layers_with_their_shares(network: onnx.ModelProto) -> None:
    together, single = blocks(network), layers(network)
    assert [x.name for x in single] == ["conv1", "conv2", "bottom", "expand", "last"]
    sizes = {"conv1": 64 * 256, "conv2": 576 * 256, "bottom": 48 * 64}
    sizes |= {"expand": 1008 * 256, "last": 576 * 1024}
    total = sum(sizes.values()) + (72 + 8) * 1024  # the first and the head, which stay in float
    assert [x.share for x in single] == pytest.approx([n / total for n in sizes.values()])
    assert frozenset().union(*(x.convs for x in together)) == frozenset(conv_names(network))


def test_layers_of_one_block_stay_together(network: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(network)
    for tensor in model.graph.initializer:
        if tensor.name.startswith(("conv1.", "conv2.")):
            tensor.name = f"trunk.{tensor.name}"
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name.startswith(("conv1.", "conv2.")):
                node.input[i] = f"trunk.{name}"
    (trunk,) = [block for block in blocks(model) if block.name == "trunk"]
    single = {layer.name: layer for layer in layers(model)}
    assert trunk.convs == {"conv1", "conv2"}
    assert trunk.share == single["trunk.conv1"].share + single["trunk.conv2"].share


def test_calibrating_without_any_pixel_near_the_threshold_is_refused(images: FloatArray) -> None:
    with pytest.raises(UsageError, match="with lesions"):
        LogitError(images, np.zeros_like(images), 0.5)


def test_constants_that_another_node_shares_are_left_alone(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(network)
    (conv,) = [node for node in model.graph.node if node.output[0] == "conv2"]
    conv.input[2] = "norm.shift"
    convs_only = rewritten(model, ["batch-norms-to-convs"])
    np.testing.assert_allclose(computed(convs_only, images), computed(model, images), atol=1e-6)


def test_logits_near_the_threshold_tell_candidates_apart(images: FloatArray) -> None:
    expected = images * 0.98 + 0.01
    logit_error = LogitError(images, expected, 0.5)
    assert logit_error(lambda x: x * 0.98 + 0.01) == pytest.approx(0, abs=1e-5)

    def moved(by: float) -> float:
        odds = (1 / (0.98 * images + 0.01) - 1) * np.exp(by)
        return logit_error(lambda _: (1 / (1 + odds)).astype(np.float32))

    assert (moved(0.1), moved(0.3)) == pytest.approx((0.1, 0.3), rel=1e-3)
