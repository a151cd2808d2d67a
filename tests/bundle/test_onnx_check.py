from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from cnnres_infer.bundle.onnx_check import check_model
from cnnres_infer.errors import BundleError
from tests.conftest import bright_model

MODEL = bright_model()


def external(kind: str) -> TensorProto:
    tensor = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    if kind == "location":
        tensor.data_location = TensorProto.EXTERNAL
    else:
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "/etc/passwd"
    return tensor


def graph(name: str, **parts: object) -> onnx.GraphProto:
    return helper.make_graph([], name, [], [], **parts)


def hidden(tensor: TensorProto, where: str) -> bytes:
    """A model with a tensor in one of the places where ONNX allows them."""
    model = onnx.load_from_string(MODEL)
    main = model.graph
    if where == "initializer":
        main.initializer.append(tensor)
    elif where == "constant":
        main.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    elif where == "list of tensors":
        node = helper.make_node("Own", [], ["c"])
        node.attribute.append(helper.make_attribute("values", [tensor]))
        main.node.append(node)
    elif where == "branch":
        inner = graph("then", initializer=[tensor])
        main.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner))
    elif where == "branch of a branch":
        inner = graph("then", initializer=[tensor])
        outer = helper.make_graph(
            [helper.make_node("If", ["x"], ["y"], then_branch=inner)], "outer", [], []
        )
        main.node.append(helper.make_node("If", ["x"], ["y"], else_branch=outer))
    elif where == "sparse":
        main.sparse_initializer.add().values.CopyFrom(tensor)
    elif where == "function":
        function = model.functions.add()
        function.name = "f"
        function.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    else:
        model.training_info.add().algorithm.initializer.append(tensor)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("kind", ["location", "entry"])
@pytest.mark.parametrize(
    "where",
    [
        "initializer",
        "constant",
        "list of tensors",
        "branch",
        "branch of a branch",
        "sparse",
        "function",
        "training",
    ],
)
def test_external_weights_are_refused_wherever_they_are_referenced(kind: str, where: str) -> None:
    with pytest.raises(BundleError, match="another file") as caught:
        check_model(hidden(external(kind), where), "m")
    assert caught.value.code == "E-BUNDLE-MODEL"
    check_model(hidden(helper.make_tensor("axes", TensorProto.INT64, [1], [1]), where), "m")


def test_the_models_in_the_package_pass(default_bundle: Path) -> None:
    for path in default_bundle.glob("*.onnx"):
        check_model(path.read_bytes(), path.name)


@given(st.integers(0, len(MODEL) - 1))
def test_a_truncated_model_is_refused(length: int) -> None:
    """Unless the rest, after the network itself, is only other top-level fields."""
    try:
        check_model(MODEL[:length], "m")
    except BundleError:
        return
    assert onnx.load_from_string(MODEL[:length]).graph == onnx.load_from_string(MODEL).graph


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x80\x04", bytes(100), b"\x3a\x00\x3a\x00"])
def test_files_that_are_not_models_are_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match="ONNX"):
        check_model(content, "m")
