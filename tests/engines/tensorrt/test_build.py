"""Engines are really built, by TensorRT-RTX, which needs no GPU for that."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.engines.tensorrt.build import BatchRange, build, capabilities
from cnnres_infer.errors import BackendUnavailableError, UsageError
from cnnres_infer.verification.agreement import load_reference
from tests.conftest import bright_model

CONVOLUTIONS = 22
LAYER = re.compile(
    r"^Name: (?P<name>[^,]*), LayerType: (?P<kind>\w+), Inputs: \[ \{ Name: [^,]*, "
    r"Dimensions: [^]]*\], Strides: [^]]*\], StrideOrder: [^]]*\], Datatype: (?P<type>\w+)",
    re.MULTILINE,
)


@pytest.fixture(scope="module")
def trt() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx-cu12")


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The built-in bundle's variants for TensorRT; INT8 is quantised here where it has none."""
    bundle = Bundle.open()
    names = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-trt"}
    found = {p: bundle.model(v) for p, v in names.items() if v in bundle.variants}
    if "int8" not in found:
        folder = tmp_path_factory.mktemp("int8")
        found["int8"] = quantised(folder, found["fp32"], symmetric=True, bias=False)
    return found


def quantised(folder: Path, model: bytes, *, symmetric: bool, bias: bool) -> bytes:
    """A variant with Q/DQ around its convolutions, calibrated on a few reference slices."""
    from onnxruntime import quantization

    images, _ = load_reference(Bundle.open())

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter([{"images": image[None]} for image in images[:64:16]])

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    (folder / "model.onnx").write_bytes(model)
    kind = quantization.QuantType.QInt8 if symmetric else quantization.QuantType.QUInt8
    quantization.quantize_static(
        folder / "model.onnx",
        folder / "int8.onnx",
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=kind,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": bias},
    )
    return (folder / "int8.onnx").read_bytes()


def in_int8(model: bytes) -> int:
    """How many convolutions of a file take weights in 8 bits."""
    graph = onnx.load_from_string(model).graph
    dequantised = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    return sum(n.op_type == "Conv" and n.input[1] in dequantised for n in graph.node)


def layers(log: list[str]) -> Counter[tuple[str, str]]:
    """How many compiled layers of a kind take a type, from the table in the build's log."""
    return Counter((found["kind"], found["type"]) for found in LAYER.finditer("\n".join(log)))


@pytest.mark.parametrize("sm", [75, 80, 86, 89, 120])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines_build_for_a_gpu_that_is_not_here(
    trt: Any, variants: dict[str, bytes], precision: str, sm: int
) -> None:
    log: list[str] = []
    sides = Bundle.open().spec.slices.sides
    plan, timing_cache = build(
        trt, variants[precision], BatchRange(), sm, log=log.append, sides=sides
    )
    assert len(plan) > 5_000_000
    assert timing_cache is None
    table = layers(log)
    convolutions = sum(n for (kind, _), n in table.items() if kind == "correlation")
    fused = sum(n for (kind, _), n in table.items() if kind == "runtime_fusion")
    assert CONVOLUTIONS - fused <= convolutions <= CONVOLUTIONS
    if precision == "fp32":
        assert table["correlation", "Float"] == convolutions
    if precision == "fp16":
        assert table["correlation", "Float"] == 1  # the first block
        assert table["correlation", "Half"] == convolutions - 1
    if precision == "int8" and sm in (86, 120):
        planned = in_int8(variants["int8"])
        assert planned - fused <= table["correlation", "Int8"] <= planned
        assert planned >= CONVOLUTIONS // 3


def test_the_batch_range_is_the_engines(trt: Any) -> None:
    log: list[str] = []
    build(trt, bright_model(), BatchRange(2, 3, 5), 86, log=log.append)
    (profile,) = re.findall(r"ProfileInfo: \[ \{ (MinShape[^}]*), Format", "\n".join(log))
    assert re.findall(r"\[(\d+),1,160,160\]", profile) == ["2", "3", "5"]


def test_the_profile_spans_all_sizes_of_images(trt: Any) -> None:
    log: list[str] = []
    model = bright_model(extents=("height", "width"))
    build(trt, model, BatchRange(1, 8, 16), 86, log=log.append, sides=(96, 128, 160))
    (profile,) = re.findall(r"ProfileInfo: \[ \{ (MinShape[^}]*), Format", "\n".join(log))
    assert re.findall(r"\[(\d+,1,\d+,\d+)\]", profile) == [
        "1,1,96,96",
        "8,1,128,128",
        "16,1,160,160",
    ]


def test_sizes_that_nobody_names_are_refused(trt: Any) -> None:
    with pytest.raises(BackendUnavailableError, match="sizes"):
        build(trt, bright_model(extents=("height", "width")), BatchRange(), 86)


def test_progress_is_told(trt: Any) -> None:
    steps: list[tuple[str, int, int]] = []
    build(trt, bright_model(), BatchRange(), 86, progress=lambda *step: steps.append(step))
    started = {name for name, done, _ in steps if done == 0}
    assert "Building engine" in started
    assert all(done <= total for _, done, total in steps)


def test_a_broken_node_is_named(trt: Any) -> None:
    node = helper.make_node("NoSuchOperator", ["images"], ["probabilities"], name="the culprit")
    shape = ["n", 1, 160, 160]
    graph = helper.make_graph(
        [node],
        "broken",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(BackendUnavailableError, match=r"'the culprit' \(NoSuchOperator\)"):
        build(trt, model.SerializeToString(), BatchRange(), 86)


def test_no_onnx_at_all(trt: Any) -> None:
    with pytest.raises(BackendUnavailableError, match="cannot read the model"):
        build(trt, b"no model", BatchRange(), 86)


@pytest.mark.parametrize(
    ("symmetric", "bias", "message"),
    [(False, False, "zero point"), (True, True, "Int32")],
    ids=["zero-point", "int32-bias"],
)
def test_int8_for_the_cpu_is_refused_with_advice(
    trt: Any, tmp_path: Path, symmetric: bool, bias: bool, message: str
) -> None:
    model = quantised(tmp_path, tiny_convolution(), symmetric=symmetric, bias=bias)
    with pytest.raises(BackendUnavailableError, match=rf"node '.*{message}.*int8-trt"):
        build(trt, model, BatchRange(), 86)


def test_an_unknown_compute_capability(trt: Any) -> None:
    assert {75, 80, 86, 89, 120} <= set(capabilities(trt))
    with pytest.raises(BackendUnavailableError, match="cannot build for compute capability 87"):
        build(trt, bright_model(), BatchRange(), 87)


def tiny_convolution() -> bytes:
    """A convolution of what is neither positive nor balanced, so that zero-points are needed."""
    weights = np.random.default_rng(0).normal(size=(1, 1, 3, 3)).astype(np.float32)
    shape = ["n", 1, 160, 160]
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["images", "shift"], ["x"]),
            helper.make_node(
                "Conv", ["x", "weights", "bias"], ["y"], name="conv", pads=[1, 1, 1, 1]
            ),
            helper.make_node("Sigmoid", ["y"], ["probabilities"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.ones(1, np.float32), "bias"),
            onnx.numpy_helper.from_array(np.float32(0.3), "shift"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


@given(st.lists(st.integers(-2, 2000), min_size=0, max_size=5))
def test_batch_ranges(numbers: list[int]) -> None:
    text = ",".join(map(str, numbers))
    if len(numbers) == 3 and sorted(numbers) == numbers and numbers[0] >= 1 and numbers[2] <= 1024:
        assert str(BatchRange.parse(text)) == text
    else:
        with pytest.raises(UsageError, match="MIN,OPT,MAX"):
            BatchRange.parse(text)
