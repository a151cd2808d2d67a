"""TensorRT's rules for ONNX files; TensorRT-RTX's parser is asked, too, where it is installed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.errors import BackendUnavailableError, VerificationError
from export.bundle_writer import seal
from export.tensorrt_rules import VARIANTS, broken_rules, check_for_tensorrt

Change = Callable[[onnx.ModelProto], None]


def quantised(kind: type[np.floating[Any]] = np.float16) -> onnx.ModelProto:
    """A convolution in 8 bits, whose images, results and scales are of one type."""
    onnx_kind = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    codes = np.random.default_rng(0).integers(-127, 128, (4, 1, 3, 3)).astype(np.int8)
    constants = {
        "x.scale": np.array(0.01, kind),
        "x.zero": np.array(0, np.int8),
        "w": codes,
        "w.scale": np.full(4, 0.02, kind),
        "w.zero": np.zeros(4, np.int8),
        "bias": np.ones(4, kind),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], "cast", to=onnx_kind),
        helper.make_node("QuantizeLinear", ["x", "x.scale", "x.zero"], ["x.q"], "q"),
        helper.make_node("DequantizeLinear", ["x.q", "x.scale", "x.zero"], ["x.dq"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "w.scale", "w.zero"], ["w.dq"], "wdq", axis=0),
        helper.make_node("Conv", ["x.dq", "w.dq", "bias"], ["y"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["y"], ["z"], "back", to=TensorProto.FLOAT),
        helper.make_node("Sigmoid", ["z"], ["probabilities"], "sigmoid"),
    ]
    shape = ["n", 1, 96, 96]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 4, 96, 96])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(each for each in model.graph.node if each.name == name)


def put(name: str, value: Any) -> Change:
    """Give a constant another value."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(each for each in model.graph.initializer if each.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))

    return change


def without_axis(model: onnx.ModelProto) -> None:
    del node(model, "wdq").attribute[:]


def other_axis(model: onnx.ModelProto) -> None:
    node(model, "wdq").attribute[0].i = 1
    put("w.scale", np.full(1, 0.02, np.float16))(model)
    put("w.zero", np.zeros(1, np.int8))(model)


def without_zero_point(model: onnx.ModelProto) -> None:
    del node(model, "dq").input[2]


def with_quantised_bias(model: onnx.ModelProto) -> None:
    constants = {"b": np.ones(4, np.int8), "b.scale": np.full(4, 1, np.float16)}
    constants["b.zero"] = np.zeros(4, np.int8)
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    made = helper.make_node("DequantizeLinear", list(constants), ["b.dq"], "bdq", axis=0)
    model.graph.node.insert(0, made)
    node(model, "conv").input[2] = "b.dq"


def with_computed_scale(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Abs", ["x.scale"], ["computed"], "abs"))
    node(model, "q").input[1] = "computed"


def newer(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21
    model.ir_version = 11


def in_uint8(model: onnx.ModelProto) -> None:
    put("x.zero", np.array(0, np.uint8))(model)


BROKEN: dict[str, tuple[Change, str]] = {
    "versions": (newer, "opset 21 is newer than 20; IR version 11 is newer than 10"),
    "scale of another type": (
        put("x.scale", np.array(0.01, np.float32)),
        "node 'q' (QuantizeLinear): its scale is float, but x is float16",
    ),
    "denormal scale": (
        put("w.scale", np.array([0.02, 5e-5, 0.02, 0.02], np.float16)),
        "node 'wdq' (DequantizeLinear): a scale is 5e-05, less than the smallest normal 6.1e-05",
    ),
    "scale of zero": (put("x.scale", np.array(0, np.float16)), "a scale is 0"),
    "no constant": (with_computed_scale, "its scale is no constant"),
    "zero-point": (put("x.zero", np.array(3, np.int8)), "its zero-point is 3, not 0"),
    "unsigned": (in_uint8, "its zero-point is uint8, not int8"),
    "no zero-point": (without_zero_point, "node 'dq' (DequantizeLinear): it has no constant zero"),
    "no axis": (without_axis, "a scale for each channel, but no axis"),
    "other axis": (other_axis, "its axis is 1, not that of the output channels, 0"),
    "bias": (with_quantised_bias, "node 'conv' (Conv): its bias is quantised"),
    "bias of another type": (
        put("bias", np.ones(4, np.float32)),
        "node 'conv' (Conv): its inputs differ in type: x.dq is float16, w.dq is float16, "
        "bias is float",
    ),
}  # fmt: skip
# What TensorRT-RTX 1.7 reads all the same. Older versions of TensorRT need not, and 8 bits
# without a sign, or too small a scale, would be computed otherwise.
TOLERATED = {"versions", "denormal scale", "no constant", "unsigned", "no zero-point", "bias"}


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_a_file_that_keeps_the_rules(kind: type[np.floating[Any]]) -> None:
    assert list(broken_rules(quantised(kind))) == []
    parsed(quantised(kind))


@pytest.mark.parametrize("name", BROKEN)
def test_each_rule_is_told_with_the_node(name: str) -> None:
    change, message = BROKEN[name]
    model = quantised()
    change(model)
    with pytest.raises(VerificationError) as caught:
        check_for_tensorrt("int8-trt", model.SerializeToString())
    assert "variant int8-trt is not for TensorRT: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", BROKEN)
def test_the_parser_agrees(name: str) -> None:
    model = quantised()
    BROKEN[name][0](model)
    if name in TOLERATED:
        parsed(model)
        return
    with pytest.raises(BackendUnavailableError):
        parsed(model)


def parsed(model: onnx.ModelProto) -> None:
    """Build an engine with TensorRT-RTX."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx-cu12")
    from cnnres_infer.engines.tensorrt.build import BatchRange, build

    build(trt, model.SerializeToString(), BatchRange(), 86)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_the_built_in_model_keeps_the_rules(variant: str) -> None:
    bundle = Bundle.open()
    if variant not in bundle.variants:
        pytest.skip(f"it has no {variant}")
    check_for_tensorrt(variant, bundle.model(variant))


def test_a_variant_for_processors_does_not_keep_them() -> None:
    found = list(broken_rules(onnx.load_from_string(Bundle.open().model("int8-cpu"))))
    assert any("uint8" in each for each in found)
    assert any("its bias is quantised" in each for each in found)


def test_nothing_is_sealed_that_breaks_them(tmp_path: Path) -> None:
    broken = quantised()
    without_axis(broken)
    manifest = {"variants": {"int8-trt": "i.onnx", "int8-cpu": "c.onnx"}}
    files = {"i.onnx": broken.SerializeToString(), "c.onnx": b"of no interest"}
    with pytest.raises(VerificationError, match="int8-trt is not for TensorRT"):
        seal(tmp_path, manifest, files)
    assert list(tmp_path.iterdir()) == []
