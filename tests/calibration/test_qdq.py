import json
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
from calibration.equalise import equalised
from calibration.fake_quant import TorchGraph
from calibration.logit_error import LogitError
from calibration.plan import (
    INT8_CPU,
    INT8_TRT,
    QParams,
    Scheme,
    conv_names,
    keep_in_float,
    make_plan,
)
from calibration.qdq import quantised
from calibration.ranges import OBSERVERS, observe
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.engines.onnxruntime.cpu import DISABLED_OPTIMIZERS
from cnnres_infer.errors import UsageError
from export.passes import rewritten
from tests.calibration.conftest import computed

TRANSPOSED = replace(
    INT8_CPU, variant="transposed convolutions", passes=("upsampling-to-transposed-convs",)
)
SCHEMES = pytest.mark.parametrize(
    "scheme", [INT8_CPU, INT8_TRT, TRANSPOSED], ids=lambda s: s.variant
)


def candidate(network: onnx.ModelProto, images: FloatArray, scheme: Scheme) -> Candidate:
    model = rewritten(network, scheme.passes)
    return Candidate.observed("minmax", model, scheme, images, OBSERVERS[0])


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


def test_equalisation_changes_nothing_in_float(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    model = rewritten(network, INT8_CPU.passes)
    even = equalised(model, images)
    changed = {
        a.name
        for a, b in zip(model.graph.initializer, even.graph.initializer, strict=True)
        if not np.array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))
    }
    assert {"norm.gain", "conv1.weight", "bottom.bias", "last.weight", "head.weight"} <= changed
    assert "stem.weight" not in changed  # a shortcut takes its channels
    np.testing.assert_allclose(computed(even, images), computed(network, images), atol=1e-5)


@SCHEMES
def test_fake_quantisation_simulates_the_int8_file(
    network: onnx.ModelProto, images: FloatArray, scheme: Scheme
) -> None:
    made = candidate(network, images, scheme)
    with torch.no_grad():
        fake = TorchGraph(made.model, made.plan)(torch.from_numpy(images)).numpy()
    real, exact = computed(made.onnx, images), computed(network, images)
    assert np.abs(real - exact).mean() > 1e-3
    assert np.abs(fake - real).mean() < 0.2 * np.abs(real - exact).mean()


def test_onnx_runtime_computes_every_planned_convolution_in_int8(
    network: onnx.ModelProto, images: FloatArray, tmp_path: Path
) -> None:
    made = candidate(network, images, INT8_CPU)
    ran = kernels(made.onnx, images, tmp_path)
    assert ran.count("QLinearConv") == len(made.plan.convs) - 1 == 7
    assert ran.count("MatMulIntegerToFloat") == 1  # the head
    assert ran.count("Conv") + ran.count("FusedConv") == 0
    mixed = made.in_float([x for x in layers(made.model) if x.name == "last"])
    assert kernels(mixed.onnx, images, tmp_path).count("QLinearConv") == 6
    assert mixed.name == "minmax; in float: last"


def test_tensorrt_gets_symmetric_activations_and_float_biases(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    model = onnx.load_from_string(candidate(network, images, INT8_TRT).onnx)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    zeros = [v for name, v in constants.items() if name.endswith(".zero")]
    assert zeros
    assert all(v.dtype == np.int8 and not v.any() for v in zeros)
    producers = {node.output[0]: node for node in model.graph.node}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    assert all(constants[node.input[2]].dtype == np.float32 for node in convs)
    quantised_convs = [n for n in convs if n.input[1].endswith(".dequantised")]
    assert len(quantised_convs) == len(convs) - 1
    assert all(producers[n.input[0]].op_type == "DequantizeLinear" for n in quantised_convs)
    assert "BatchNormalization" in {node.op_type for node in model.graph.node}


def test_the_residual_option_quantises_the_inputs_of_additions(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    scheme = Scheme("t", symmetric=True, all_activations=False, residuals=True, int32_bias=False)
    plan = make_plan(network, observe(network, images, OBSERVERS[0]), scheme)
    assert {"pool", "conv2"} <= set(plan.tensors)


def test_pooled_and_upsampled_activations_share_their_parameters(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    plan = candidate(network, images, INT8_CPU).plan
    assert plan.sharing == {
        "pool": "stem_relu",
        "deep": "trunk",
        "up": "bottom",
        "head.channels-last": "last_relu",
    }
    assert plan.qparams("pool") is plan.qparams("stem_relu")
    assert plan.qparams("stem") is None  # fused with its ReLU
    assert plan.qparams("head.product") is None  # a matrix product gives floats


def test_keeping_nothing_in_float_changes_nothing(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    made = candidate(network, images, INT8_CPU)
    assert keep_in_float(made.model, made.plan, frozenset()) == made.plan
    bare = made.in_float(blocks(made.model))
    assert bare.plan.convs == frozenset()
    assert "images" not in bare.plan.tensors  # taken by the stem alone, which is float now


def test_quantisation_parameters_cover_zero_and_both_ends() -> None:
    assert QParams.covering(-1.0, 3.0, INT8_CPU) == QParams(4 / 255, 64)
    assert QParams.covering(2.0, 3.0, INT8_CPU) == QParams(3 / 255, 0)
    assert QParams.covering(-2.0, 1.0, INT8_TRT) == QParams(2 / 127, 0)


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
    made = candidate(network, images, INT8_CPU)
    in_float = {"stem", "norm.gain", "conv1", "conv2"}
    mixed = made.in_float([x for x in layers(made.model) if x.name in in_float])
    among_floats = {"images", "stem_relu", "pool", "norm_relu", "conv1_relu", "conv2"}
    assert not among_floats & {*mixed.plan.tensors, *mixed.plan.sharing}
    assert {"trunk", "bottom"} <= set(mixed.plan.tensors)  # taken by convolutions in INT8


def test_blocks_hold_all_layers_with_their_shares(network: onnx.ModelProto) -> None:
    plain = rewritten(network, INT8_TRT.passes)
    together, single = blocks(plain), layers(plain)
    assert [x.name for x in single] == ["stem", "conv1", "conv2", "bottom", "expand", "last"]
    sizes = {"stem": 72 * 1024, "conv1": 64 * 256, "conv2": 576 * 256, "bottom": 48 * 64}
    sizes |= {"expand": 1008 * 256, "last": 576 * 1024}
    total = sum(sizes.values()) + 8 * 1024  # the head, which stays in float
    assert [x.share for x in single] == pytest.approx([n / total for n in sizes.values()])
    assert frozenset().union(*(x.convs for x in together)) == frozenset(conv_names(plain))


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


@pytest.mark.parametrize("observer", OBSERVERS, ids=lambda o: o.name)
def test_observers_find_ranges_of_all_tensors(
    network: onnx.ModelProto, images: FloatArray, observer: object
) -> None:
    ranges = observe(network, images, observer)  # type: ignore[arg-type]
    extremes = observe(network, images, OBSERVERS[0])
    assert set(ranges) >= set(extremes) - {"images"}
    low, high = ranges["stem_relu"]
    assert low >= -extremes["stem_relu"][1]
    assert 0 < high <= extremes["stem_relu"][1] * 1.001
