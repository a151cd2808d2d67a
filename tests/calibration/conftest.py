from collections.abc import Collection, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from calibration.blocks import layers
from calibration.candidate import Candidate
from calibration.plan import Scheme, make_plan
from cnnres_infer.core.arrays import FloatArray
from export.torch_graph import TorchGraph


def small_network(seed: int = 0) -> onnx.ModelProto:
    """A small network with CNN-Res's parts: pooling, batch norm, shortcut, skip, upsampling."""
    generator = np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {"scales": np.array([1, 1, 2, 2], np.float32)}
    nodes = []

    def conv(name: str, source: str, widths: tuple[int, int], size: int) -> str:
        shape = (widths[1], widths[0], size, size)
        deviation = np.sqrt(2 / (widths[0] * size * size))
        constants[f"{name}.weight"] = generator.normal(0, deviation, shape).astype(np.float32)
        constants[f"{name}.bias"] = generator.normal(0, 0.1, widths[1]).astype(np.float32)
        pad = size // 2
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [name], name, pads=[pad] * 4))
        return name

    def plain(kind: str, sources: Sequence[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, list(sources), [name], name, **attributes))
        return name

    x = plain("Relu", [conv("stem", "images", (1, 8), 3)], "stem_relu")
    x = plain("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    for name, low, high in (
        ("gain", 0.5, 1.5),
        ("shift", -0.3, 0.3),
        ("mean", 0, 1),
        ("var", 1, 2),
    ):
        constants[f"norm.{name}"] = generator.uniform(low, high, 8).astype(np.float32)
    norm = [x, *(f"norm.{name}" for name in ("gain", "shift", "mean", "var"))]
    inner = plain("Relu", [plain("BatchNormalization", norm, "norm", epsilon=1e-5)], "norm_relu")
    inner = plain("Relu", [conv("conv1", inner, (8, 8), 1)], "conv1_relu")
    trunk = plain("Add", [x, conv("conv2", inner, (8, 8), 3)], "trunk")
    deep = plain("MaxPool", [trunk], "deep", kernel_shape=[2, 2], strides=[2, 2])
    deep = conv("bottom", deep, (8, 6), 1)
    up = plain("Resize", [deep, "", "scales"], "up", **_NEAREST)
    both = plain("Concat", [up, trunk], "both", axis=1)
    x = plain("Relu", [conv("expand", both, (14, 8), 3)], "expand_relu")
    x = plain("Resize", [x, "", "scales"], "last_up", **_NEAREST)
    x = plain("Relu", [conv("last", x, (8, 8), 3)], "last_relu")
    plain("Sigmoid", [conv("head", x, (8, 1), 1)], "probabilities")
    kinds = (onnx.TensorProto.FLOAT, ["n", 1, 32, 32])
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", *kinds)],
        [helper.make_tensor_value_info("probabilities", *kinds)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def min_max(
    model: onnx.ModelProto, images: FloatArray, scheme: Scheme, in_float: Collection[str] = ()
) -> Candidate:
    """A network quantised between the extremes of each tensor, without balancing."""
    with torch.no_grad():
        walk = TorchGraph(model).walk(torch.from_numpy(images))
        ranges = {n.output[0]: (float(out.min()), float(out.max())) for n, out in walk}
    kept = tuple(layer for layer in layers(model) if layer.name in in_float)
    convs = frozenset[str]().union(*(layer.convs for layer in kept))
    return Candidate(model, make_plan(model, ranges, scheme, convs), kept)


def computed(model: onnx.ModelProto | bytes, images: FloatArray) -> FloatArray:
    """Output of a model in ONNX Runtime, node by node.

    Fused, sums of products of 8 bits overflow on x86 without VNNI.
    """
    content = model if isinstance(model, bytes) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


_NEAREST = {
    "mode": "nearest",
    "nearest_mode": "floor",
    "coordinate_transformation_mode": "asymmetric",
}


@pytest.fixture(scope="session")
def network() -> onnx.ModelProto:
    return small_network()


@pytest.fixture(scope="session")
def images() -> FloatArray:
    generator = np.random.default_rng(1)
    smooth = generator.random((8, 1, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    noisy = smooth + generator.normal(0, 0.05, (8, 1, 32, 32))
    return noisy.clip(0, 1).astype(np.float32)
