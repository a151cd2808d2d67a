"""Shared by the tests: a tiny model with known outputs, synthetic volumes, real data."""

import hashlib
import importlib.util
import io
import itertools
import json
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cnnres_infer.bundle.bundle import DEFAULT_BUNDLE, REFERENCE
from cnnres_infer.bundle.manifest import MANIFEST
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.engines.nvidia import device
from cnnres_infer.host import cache
from cnnres_infer.phantom.head import Phantom

# Threads that wait busily for one another make torch tens of times slower beside another
# program; read when torch is first imported, here and in the processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Its assertions explain themselves as those of a test module do.
pytest.register_assert_rewrite("tests.engines.contract")

# On a busy machine, the time that an example takes means nothing.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

DATA_FOLDER = "CNNRES_INFER_DATA"
TESTS = Path(__file__).resolve().parent
SHARED_DATA = Path(os.environ.get(DATA_FOLDER) or TESTS.parents[1] / "shared" / "data")
ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]

# What the tests of a folder need beyond the dependency group `test`: a group, and what tells
# that it is installed.
GROUPS = {
    "benchmarks": ("export", ("torch", "onnxslim", "h5py")),
    "calibration": ("export", ("torch", "onnxslim", "h5py")),
    "export": ("export", ("torch", "onnxslim", "onnxscript", "h5py")),
    "network": ("train", ("torch", "safetensors")),
    "training": ("train", ("torch", "safetensors")),
}


class _LacksGroup(pytest.Module):
    """Tests that skip instead of being imported, since their dependency group is not here."""

    def collect(self) -> NoReturn:
        group, _ = GROUPS[self.path.parent.name]
        pytest.skip(f"needs `pip install --group {group}`", allow_module_level=True)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    folder = module_path.parent
    _, needed = GROUPS.get(folder.name, ("", ()))
    if folder.parent != TESTS or all(importlib.util.find_spec(name) for name in needed):
        return None
    lacking: pytest.Module = _LacksGroup.from_parent(parent, path=module_path)
    return lacking


def _no_driver(name: str) -> NoReturn:
    raise OSError(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Hide real GPUs from all tests but those marked `gpu`, and from processes that they start.

    A fixture would come too late for the fixtures of a module or of the whole session.
    """
    if item.get_closest_marker("gpu"):
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "_load", _no_driver)
        patch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        device.find_gpus.cache_clear()
        try:
            return (yield)
        finally:
            device.find_gpus.cache_clear()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests marked `gpu` first: in a process that starts CUDA without a GPU, it has none."""
    items.sort(key=lambda item: item.get_closest_marker("gpu") is None)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use a temporary cache, shared by all tests, so that each self-check runs only once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.FOLDER, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with collections of real MRI, which are not part of the project."""
    if not SHARED_DATA.is_dir():
        if os.environ.get(DATA_FOLDER):
            pytest.fail(f"{DATA_FOLDER} is {SHARED_DATA}, which is not a folder")
        pytest.skip(f"the collections of real MRI are missing; set {DATA_FOLDER} to their folder")
    return SHARED_DATA


@pytest.fixture(scope="session")
def default_bundle() -> Path:
    return DEFAULT_BUNDLE


def bright_model(
    channels: int = 1, level: float = 0.8, extents: tuple[int | str, int | str] = (160, 160)
) -> bytes:
    """A network with a known output: lesion where the mean of the channels exceeds the level."""
    slope = 60.0
    weights = np.full((1, channels, 1, 1), slope / channels, np.float32)
    bias = np.array([-slope * level], np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "weights", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", channels, *extents])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 1, *extents])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def bright_reference(channels: int = 1) -> bytes:
    """Ten slices, eight of them with bright squares, and the network's output for them."""
    images = np.full((10, channels, 160, 160), 100, np.uint8)
    for image, side in zip(images[2:], range(4, 36, 4), strict=True):
        image[:, 20 : 20 + side, 30 : 30 + side] = 230
    images[8, :, 100:110, 100:110] = 230
    mean = images.mean(axis=1, keepdims=True) / 255
    buffer = io.BytesIO()
    probabilities = (1 / (1 + np.exp(-60 * (mean - 0.8)))).astype(np.float32)
    np.savez_compressed(buffer, images=images, probabilities=probabilities)
    return buffer.getvalue()


BundleMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> BundleMaker:
    """Write a bundle with `bright_model`; keyword arguments replace parts of its manifest."""

    def make(channels: int = 1, **changes: object) -> Path:
        folder = tmp_path_factory.mktemp("bundle")
        files = {"model.fp32.onnx": bright_model(channels), REFERENCE: bright_reference(channels)}
        for name, content in files.items():
            (folder / name).write_bytes(content)
        manifest = {
            "format": 1,
            "name": "bright",
            "version": "1",
            "input": {
                "channels": channels,
                "modalities": ["dwi", "flair"],
                "size": 160,
                "spacing_mm": 1.25,
                "ceiling": 2.0,
            },
            "fusion": {"rule": "mean", "dwi_weight": 0.5},
            "mask": {"threshold": 0.5, "smallest_lesion_ml": 0.0},
            "variants": {"fp32": "model.fp32.onnx"},
            "sha256": {
                name: hashlib.sha256(content).hexdigest() for name, content in files.items()
            },
            **changes,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest))
        return folder

    return make


@pytest.fixture(scope="session")
def bright_bundle(make_bundle: BundleMaker) -> Path:
    return make_bundle()


@pytest.fixture(scope="session")
def broken_int8_bundle(make_bundle: BundleMaker) -> Path:
    """A bundle whose int8 variant, the preferred one, misses most lesions."""
    folder = make_bundle()
    model = bright_model(level=0.95)
    (folder / "model.int8-cpu.onnx").write_bytes(model)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["variants"]["int8-cpu"] = "model.int8-cpu.onnx"
    manifest["sha256"]["model.int8-cpu.onnx"] = hashlib.sha256(model).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def phantom_volume(phantom: Phantom, name: str = "phantom") -> Volume:
    """The image of a phantom."""
    return Volume.from_array(phantom.data, phantom.affine, name)


def oriented_affine(
    order: tuple[int, ...],
    signs: tuple[int, ...],
    spacing: tuple[float, float, float],
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0),
    shape: tuple[int, int, int] = (0, 0, 0),
) -> NDArray[np.float64]:
    """Affine whose voxel axis ``order[i]`` runs along world axis i, tilted by angles in rad.

    The centre of the grid is at the origin.
    """
    matrix = np.zeros((3, 3))
    for world, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[world, axis] = sign * spacing[axis]
    for axis, angle in enumerate(tilt):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[[a, a, b, b], [a, b, a, b]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        matrix = turn @ matrix
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = -matrix @ (np.array(shape) - 1) / 2
    return affine


def blob_volume(
    shape: tuple[int, int, int] = (60, 70, 20),
    affine: NDArray[np.float64] | None = None,
    centre_mm: tuple[float, float, float] = (20.0, 10.0, 5.0),
    radius_mm: float = 9.0,
) -> tuple[Volume, NDArray[np.bool_]]:
    """A brain-sized ellipsoid of about 100 with a ball of 190, and the mask of the ball.

    It has the texture of an image, and a dark ventricle.
    """
    if affine is None:
        affine = oriented_affine((0, 1, 2), (-1, 1, 1), (2.5, 2.5, 5.0), shape=shape)
    grid = Grid(shape, affine)
    index = np.moveaxis(np.indices(shape), 0, -1).astype(float)
    mm = grid.to_mm(index)
    brain = ((mm / np.array([65.0, 80.0, 60.0])) ** 2).sum(axis=-1) <= 1
    ball = (np.linalg.norm(mm - np.array(centre_mm), axis=-1) <= radius_mm) & brain
    x, y, z = np.moveaxis(mm, -1, 0)
    ventricle = (x / 12) ** 2 + (y / 25) ** 2 + (z / 15) ** 2 <= 1
    texture = np.rint(16 * np.sin(x / 6 + z / 9) * np.cos(y / 7))
    data = np.where(brain, 100 + texture - 50 * ventricle, 0.0)
    data[ball] = 190.0
    return Volume(data.astype(np.float32), grid, "blob"), ball
