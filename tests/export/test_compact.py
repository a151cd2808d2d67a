import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.bundle.onnx_check import INPUT, OUTPUT
from cnnres_infer.bundle.recipe import build
from cnnres_infer.bundle.signature import SIGNATURE
from export.bundle_writer import seal
from export.compact import compact, recipe_for
from tests import commands

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(11)


def network(**constants: np.ndarray) -> bytes:
    """An ONNX file with constants, and a node to have one."""
    images = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, "h", "w"])
        for name in (INPUT, OUTPUT)
    ]
    graph = helper.make_graph(
        [helper.make_node("Relu", [INPUT], [OUTPUT])],
        "g",
        images[:1],
        images[1:],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.fixture
def whole(default_bundle: Path, tmp_path: Path) -> Path:
    """The built-in bundle with all of its networks stored, as the calibration leaves one."""
    folder = shutil.copytree(default_bundle, tmp_path / "whole")
    bundle = Bundle.open(folder)
    networks = {name: bundle.read(name) for name in bundle.derived}
    seal(folder, {**bundle.manifest}, networks)
    return folder


@pytest.mark.slow
def test_compacting_changes_no_network(whole: Path, default_bundle: Path) -> None:
    before, shipped = Bundle.open(whole), Bundle.open(default_bundle)
    assert not before.derived
    assert "derived" not in before.manifest
    assert not list(whole.glob("*.recipe.json"))
    (whole / SIGNATURE).write_bytes(b"of what stood before")
    done = commands.run("export", "compact", whole)
    assert done.returncode == 0, done.stderr
    after = Bundle.open(whole)
    assert {after.sha256[name] for name in after.variants.values()} == {
        before.sha256[name] for name in before.variants.values()
    }
    assert after.derived == shipped.derived
    assert {path.name for path in whole.iterdir()} == {p.name for p in default_bundle.iterdir()}
    source = after.read("model.fp32.onnx")
    for name, how in after.derived.items():
        # Not from the cache, which has them of the other bundle.
        assert build(after.read(how.recipe), source, 1 << 30) == shipped.read(name)
        assert f"{name}: a recipe of" in done.stdout
    assert sum(path.stat().st_size for path in whole.iterdir()) < 33e6
    assert compact(whole) == {}


@pytest.mark.parametrize("zero", ["nothing", "output", "input"])
@pytest.mark.parametrize("shape", [(16, 24, 3, 3), (40, 32, 1, 1)])
def test_eight_bit_weights_follow_from_balanced_ones(shape: tuple[int, ...], zero: str) -> None:
    weights = RNG.normal(0, 0.1, shape).astype(np.float32)
    weights[:1] *= zero != "output"
    weights[:, 2:3] *= zero != "input"
    balanced = weights * RNG.lognormal(0, 0.5, (shape[1], 1, 1)).astype(np.float32)
    scales = np.abs(balanced).max(axis=(1, 2, 3), keepdims=True).clip(1e-8) / np.float32(127)
    source = network(w=weights)
    target = network(codes=np.round(balanced / scales).astype(np.int8), scales=scales)
    recipe = recipe_for(target, source)
    assert build(recipe, source, 1 << 20) == target
    assert [step.get("as") for step in json.loads(recipe)["steps"]] == [None, "int8", None]


@pytest.mark.parametrize("zero", ["nothing", "output", "input"])
def test_float16_weights_follow_from_scaled_ones(zero: str) -> None:
    """Thousands of numbers leave a factor hardly any room, some of them rounded twice."""
    shape = (64, 128, 3, 3)
    weights = RNG.normal(0, 0.1, shape).astype(np.float16).astype(np.float32)
    weights[:1] *= zero != "output"
    weights[:, 2:3] *= zero != "input"
    factors = RNG.lognormal(0, 0.5, shape[0]).astype(np.float32)
    source = network(w=weights)
    target = network(halves=(weights * factors[:, None, None, None]).astype(np.float16))
    recipe = recipe_for(target, source)
    assert build(recipe, source, 1 << 20) == target
    assert [step.get("as") for step in json.loads(recipe)["steps"]] == [None, "float16", None]


def test_what_follows_from_nothing_is_stored() -> None:
    shape = (16, 24, 3, 3)
    source = network(w=RNG.normal(0, 0.1, shape).astype(np.float32))
    codes = RNG.integers(-127, 128, shape).astype(np.int8)
    others = RNG.normal(0, 0.1, shape).astype(np.float32)
    target = network(codes=codes, half=others.astype(np.float16), others=others)
    recipe = recipe_for(target, source)
    assert build(recipe, source, 1 << 20) == target
    assert [list(step) for step in json.loads(recipe)["steps"]] == [["bytes"]]


def test_rewritten_kernels_follow_from_the_plain_ones(default_bundle: Path) -> None:
    bundle = Bundle.open(default_bundle)
    steps = json.loads(bundle.read("model.fp32-cpu.recipe.json"))["steps"]
    spread = [step["spread"]["shape"] for step in steps if "spread" in step]
    graph = onnx.load_from_string(bundle.model("fp32-cpu")).graph
    transposed = [list(each.dims) for each in graph.initializer if each.name.endswith(".up.weight")]
    assert len(transposed) == 4
    assert all(shape in spread for shape in transposed)
    stored = sum(len(step["bytes"]) for step in steps if "bytes" in step)
    assert stored < 0.01 * len(bundle.model("fp32-cpu"))
