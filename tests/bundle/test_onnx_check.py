from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.bundle.onnx_check import OPERATORS, check_model
from cnnres_infer.errors import BundleError
from tests.conftest import bright_model

MODEL = bright_model()
Change = Callable[[onnx.ModelProto], None]


def refuse(content: bytes, reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        check_model(content, "m.onnx")
    assert caught.value.code == "E-BUNDLE-MODEL"
    assert str(caught.value).startswith("m.onnx: ")


def changed(change: Change) -> bytes:
    model = onnx.load_from_string(MODEL)
    change(model)
    return bytes(model.SerializeToString())


def external(kind: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "more")
    if kind == "location":
        tensor.data_location = TensorProto.EXTERNAL
    else:
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "/etc/passwd"
    return tensor


def graph(**parts: object) -> onnx.GraphProto:
    return helper.make_graph([], "inner", [], [], **parts)


@pytest.mark.parametrize("kind", ["location", "entry"])
def test_weights_in_other_files_are_refused(kind: str) -> None:
    refuse(changed(lambda model: model.graph.initializer.append(external(kind))), "another file")


def node(operator: str, **attributes: object) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(operator, ["logit"], ["more"], **attributes))

    return change


def odd_type(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("axis", 1))
    model.graph.node[0].attribute[-1].type = onnx.AttributeProto.GRAPH


def foreign(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def function(model: onnx.ModelProto) -> None:
    model.functions.add().name = "f"


def training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.name = "t"


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.name = "s"


def metadata(model: onnx.ModelProto) -> None:
    model.metadata_props.add().key = "k"


def opset(version: int, domain: str = "") -> Change:
    def change(model: onnx.ModelProto) -> None:
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid(domain, version))

    return change


def second_opset(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["n"]))


def renamed_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "other"


def integers(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def no_nodes(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


def giant(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 40


def negative(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -1


def text_constant(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("t", TensorProto.STRING, [1], [b"a"]))


def numbers_elsewhere(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0]))


def resize(scale: float) -> Change:
    def change(model: onnx.ModelProto) -> None:
        scales = np.array([1, 1, scale, scale], np.float32)
        model.graph.initializer.append(numpy_helper.from_array(scales, "scales"))
        model.graph.node.append(helper.make_node("Resize", ["logit", "", "scales"], ["more"]))

    return change


REFUSED: dict[str, tuple[Change, str]] = {
    "branch": (node("If", then_branch=graph(), else_branch=graph()), "operator 'If'"),
    "loop": (node("Loop", body=graph()), "operator 'Loop'"),
    "scan": (node("Scan", body=graph(), num_scan_inputs=1), "operator 'Scan'"),
    "constant of a shape": (node("ConstantOfShape"), "operator 'ConstantOfShape'"),
    "expansion": (node("Expand"), "operator 'Expand'"),
    "randomness": (node("RandomNormal", shape=[1]), "operator 'RandomNormal'"),
    "constant node": (
        node("Constant", value=numpy_helper.from_array(np.zeros(1))), "operator 'Constant'",
    ),
    "graph in a known operator": (node("Relu", body=graph()), "unknown field"),
    "type of a graph": (odd_type, "neither number nor text"),
    "tensor in a known operator": (
        node("Relu", value=numpy_helper.from_array(np.zeros(1))), "unknown field",
    ),
    "other domain": (foreign, "operator"),
    "function": (function, "unknown field"),
    "training": (training, "unknown field"),
    "sparse constant": (sparse, "unknown field"),
    "metadata": (metadata, "unknown field"),
    "older opset": (opset(17), "opset"),
    "newer opset": (opset(20), "opset"),
    "foreign opset": (opset(18, "com.example"), "opset"),
    "second opset": (second_opset, "opset"),
    "second input": (second_input, "inputs and outputs"),
    "other output": (renamed_output, "inputs and outputs"),
    "images of integers": (integers, "inputs and outputs"),
    "no nodes": (no_nodes, "no network"),
    "giant constant": (giant, "contradicts its bytes"),
    "negative size": (negative, "contradicts its bytes"),
    "constant of text": (text_constant, "unknown field"),
    "numbers outside of the raw data": (numbers_elsewhere, "unknown field"),
    "giant pads": (
        node("MaxPool", kernel_shape=[1, 1], pads=[1 << 20] * 4), "attribute larger",
    ),
    "giant scale": (resize(1e9), "scale"),
    "negative scale": (resize(-1), "scale"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_this_project_does_not_write_is_refused(change: Change, reason: str) -> None:
    refuse(changed(change), reason)


def test_an_ordinary_scale_is_accepted() -> None:
    check_model(changed(resize(2.0)), "m")


def test_the_models_in_the_package_pass_and_no_other_operator_does(default_bundle: Path) -> None:
    used = {"Mul"}
    bundle = Bundle.open(default_bundle)
    for variant in bundle.variants:
        used |= {each.op_type for each in onnx.load_from_string(bundle.model(variant)).graph.node}
    assert used >= OPERATORS


def prefixed(field: int, wire: int, payload: bytes, extra: int = 0) -> bytes:
    """A field, whose tag is as long as given."""
    tag, parts = field << 3 | wire, []
    while tag > 0x7F or extra > 0:
        parts.append(tag & 0x7F | 0x80)
        tag, extra = tag >> 7, extra - (tag <= 0x7F)
    return bytes([*parts, tag]) + payload


EXTERNAL = external("entry").SerializeToString()
NOT_CANONICAL = {
    "tag beyond 32 bits": prefixed(1 << 29 | 7, 2, b"\x00") + MODEL,
    "tag that is longer than it has to be": prefixed(1, 0, b"\x08", extra=1) + MODEL[2:],
    "number that is longer than it has to be": b"\x08\x8a\x00" + MODEL[2:],
    "number of eleven bytes": b"\x08" + b"\xff" * 10 + b"\x01" + MODEL[2:],
    "group": b"\x0b\x0c" + MODEL,
    "field 0": b"\x00\x00" + MODEL,
    "field twice": MODEL[:2] + MODEL,
    "second network": MODEL + prefixed(7, 2, b"\x00"),
    "network as a number": prefixed(7, 0, b"\x01") + MODEL,
    "fixed number": b"\x09" + bytes(8) + MODEL[2:],
}


@pytest.mark.parametrize("content", NOT_CANONICAL.values(), ids=NOT_CANONICAL)
def test_what_two_parsers_could_read_differently_is_refused(content: bytes) -> None:
    assert MODEL[:2] == b"\x08\x0a", "the model starts with its version"
    refuse(content, "ONNX file")


def test_a_tag_beyond_32_bits_does_not_hide_weights() -> None:
    """Parsers that cut a tag to 32 bits see external data where this module saw another field."""
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "more").SerializeToString()
    hidden = prefixed((1 << 29) + 14, 0, b"\x01")
    graphs = onnx.load_from_string(MODEL)
    inner = graphs.graph.SerializeToString()
    start = inner.index(graphs.graph.initializer[0].SerializeToString())
    tensor += hidden
    length = len(tensor)
    inner = inner[: start - 2] + prefixed(5, 2, bytes([length]) + tensor) + inner[start - 2 :]
    whole = MODEL[: MODEL.index(graphs.graph.SerializeToString()[:8]) - 3]
    size = bytes([len(inner) & 0x7F | 0x80, len(inner) >> 7])
    tail = prefixed(8, 2, b"\x04\x0a\x00\x10\x12")
    refuse(whole + prefixed(7, 2, size + inner) + tail, "unknown field")


@given(st.integers(0, len(MODEL) - 1))
def test_a_truncated_model_is_refused(length: int) -> None:
    refuse(MODEL[:length], "ONNX file")


@given(st.integers(0, len(MODEL) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_read_as_protobuf_reads_it(place: int, change: int) -> None:
    content = MODEL[:place] + bytes([MODEL[place] ^ change]) + MODEL[place + 1 :]
    try:
        check_model(content, "m")
    except BundleError:
        return
    model = onnx.load_from_string(content)
    assert {each.op_type for each in model.graph.node} <= OPERATORS
    assert model.SerializeToString() == content


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x80\x04", bytes(100), b"\x3a\x00\x3a\x00"])
def test_files_that_are_not_models_are_refused(content: bytes) -> None:
    refuse(content, "ONNX")
