"""Engines are really built, by TensorRT-RTX, which needs no GPU for that."""

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from calibration.plan import INT8_TRT
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.nvidia.batches import LADDER
from cnnres_infer.engines.tensorrt import build as building
from cnnres_infer.engines.tensorrt.api import TENSORRT_RTX, capabilities
from cnnres_infer.engines.tensorrt.build import BatchRange, build
from cnnres_infer.errors import BackendUnavailableError, PrecisionUnavailableError, UsageError
from cnnres_infer.verification.agreement import load_reference
from export.passes import rewritten
from tests.calibration.conftest import min_max
from tests.conftest import bright_model
from tests.engines.tensorrt.layer_table import Layer, layers
from tests.fakes.builder import FakeBuilderModule

CONVOLUTIONS = 22
SMS = (75, 80, 86, 89, 120, 121)
# The others of the same generation are as good for a quick test.
EACH_SM = [pytest.param(sm, marks=[pytest.mark.slow] if sm in (80, 89, 121) else []) for sm in SMS]
Compile = Callable[[str, int], tuple[bytes, list[Layer]]]
# Of compiled layers; more means that less was fused.
MOST_ROWS = {"fp32": 44, "fp16": 40, "int8": 58}
# Size of a plan in that of its ONNX file; the layers that stay in float grow.
SIZES = {"fp32": (1.0, 1.2), "fp16": (1.0, 1.25), "int8": (1.0, 1.8)}
# An int8 plan compared with a float16 one.
SMALLER = 0.85


@pytest.fixture(scope="module")
def trt() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx-cu12")


@pytest.fixture(scope="module")
def variants() -> dict[str, bytes]:
    """The built-in bundle's variants for TensorRT; INT8 is quantised here where it has none.

    All that may be in 8 bits is so in ``"all in int8"``, whatever the accuracy.
    """
    bundle = Bundle.open()
    names = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-trt"}
    found = {p: bundle.model(v) for p, v in names.items() if v in bundle.variants}
    network = rewritten(onnx.load_from_string(found["fp32"]), INT8_TRT.passes)
    images = load_reference(bundle)[0][:1]
    found["all in int8"] = min_max(network, images, INT8_TRT).onnx
    return {"int8": found["all in int8"], **found}


def quantised(folder: Path, model: bytes, *, symmetric: bool, bias: bool) -> bytes:
    """A convolution with Q/DQ as other tools write them."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            images = np.random.default_rng(0).random((1, 1, 160, 160), np.float32)
            self._feeds = iter([{"images": images}])

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


@pytest.fixture(scope="module")
def compiled(trt: Any, variants: dict[str, bytes]) -> Compile:
    """Gives the plan and the layers of a precision for a compute capability."""
    sides = Bundle.open().spec.slices.sides

    @cache
    def compile_it(precision: str, sm: int) -> tuple[bytes, list[Layer]]:
        log: list[str] = []
        plan, timing_cache = build(
            trt, variants[precision], BatchRange(), sm, log=log.append, sides=sides
        )
        assert timing_cache is None
        return plan, layers(log)

    return compile_it


def rows(table: list[Layer]) -> int:
    """How many kernels there are; the others only make one stream wait for another."""
    return sum(each.kind not in ("signal", "wait") for each in table)


def convolutions(table: list[Layer]) -> Counter[tuple[str, str, str]]:
    """How many convolutions there are by the types of images, weights and results."""
    found = (each for each in table if each.kind == "correlation")
    return Counter((each.inputs[0], each.constants[0], each.outputs[0]) for each in found)


@pytest.mark.parametrize("sm", EACH_SM)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines_build_for_a_gpu_that_is_not_here(
    compiled: Compile, variants: dict[str, bytes], precision: str, sm: int
) -> None:
    model = variants[precision]
    plan, table = compiled(precision, sm)
    if (precision, sm) != ("int8", 75):
        smallest, largest = SIZES[precision]
        assert smallest * len(model) < len(plan) < largest * len(model)
        assert rows(table) <= MOST_ROWS[precision]
    # The images are float32 and so are the probabilities, whatever is between them.
    (images, *_), (*_, probabilities) = (each for each in table if each.inputs), table
    assert images.inputs[0] == "Float"
    assert probabilities.outputs == ("Float",)
    found = convolutions(table)
    fused = sum(each.kind == "runtime_fusion" for each in table)
    assert CONVOLUTIONS - fused <= found.total() <= CONVOLUTIONS
    if precision == "fp32":
        assert set(found) == {("Float", "Float", "Float")}
    if precision == "fp16":
        assert found["Float", "Float", "Float"] == 1  # the first block
        assert found["Half", "Half", "Half"] == found.total() - 1
        # The head, the cast and the sigmoid.
        ends = [each for each in table if each.kind == "runtime_fusion" and "Float" in each.outputs]
        assert sm == 75 or [each.inputs for each in ends] == [("Half",)]


@pytest.mark.parametrize("sm", EACH_SM)
@pytest.mark.parametrize("precision", ["int8", "all in int8"])
def test_convolutions_of_int8_are_in_int8_but_on_turing(
    compiled: Compile, variants: dict[str, bytes], precision: str, sm: int
) -> None:
    planned = in_int8(variants[precision])
    assert planned >= CONVOLUTIONS // 3
    plan, table = compiled(precision, sm)
    found = convolutions(table)
    if sm == 75:
        assert not [types for types in found if "Int8" in types]
        assert found.total() == CONVOLUTIONS
        TENSORRT_RTX.check_precision(Precision.FP16, sm)
        with pytest.raises(PrecisionUnavailableError):
            TENSORRT_RTX.check_precision(Precision.INT8, sm)
        return
    TENSORRT_RTX.check_precision(Precision.INT8, sm)
    # No result is written in float32, which would make up for all that 8 bits save.
    assert found["Int8", "Int8", "Half"] + found["Int8", "Int8", "Int8"] == planned
    assert found["Float", "Float", "Float"] == 1  # the first block
    assert found["Half", "Half", "Half"] == found.total() - planned - 1
    assert rows(table) <= MOST_ROWS["int8"]
    assert len(plan) < SMALLER * len(compiled("fp16", sm)[0])


def test_all_compute_capabilities_are_tested(trt: Any) -> None:
    assert capabilities(trt) == SMS


@pytest.mark.parametrize("features", [(), ("RUNTIME_ACTIVATION_RESIZE_10_10",)])
def test_scratch_memory_is_resized_where_tensorrt_can(features: tuple[str, ...]) -> None:
    module = FakeBuilderModule(*features)
    build(module, b"model", BatchRange())
    (config,) = module.configs
    assert config.preview == dict.fromkeys(features, True)
    assert config.flags == set()


def test_real_builders_resize_scratch_memory(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    feature, seen = trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, []
    original = building._profile

    def noted(builder: Any, *arguments: Any) -> Any:
        config = building._config(trt, builder, False)
        seen.append(config.get_preview_feature(feature))
        return original(builder, *arguments)

    monkeypatch.setattr(building, "_profile", noted)
    build(trt, bright_model(), BatchRange(), 86)
    assert seen == [True]


@pytest.mark.parametrize(
    ("earlier", "used"),
    [(b"", b""), (b"RTX 3060;", b"RTX 3060;"), (b"H100;", b"")],
    ids=["none", "own", "of another GPU"],
)
def test_a_timing_cache_of_another_gpu_is_replaced(earlier: bytes, used: bytes) -> None:
    plan, measured = build(FakeBuilderModule(), b"model", BatchRange(), None, earlier)
    assert (plan, measured) == (b"plan", used + b"measured;")


def test_kernels_are_tuned_for_full_batches() -> None:
    assert str(BatchRange()) == f"1,{LADDER[-1]},{LADDER[-1]}"


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
