import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

os.environ["KERAS_BACKEND"] = "torch"
pytest.importorskip("keras", reason="needs `pip install --group export`")

import h5py
import keras

from cnnres_infer.errors import BundleError
from network.cnnres import PUBLISHED
from network.keras_weights import load_keras_weights

Edit = Callable[[Any], None]
LAYOUTS = ("model.weights.h5", "model.h5")


def conv(x: Any, width: int, size: int, **options: Any) -> Any:
    return keras.layers.Conv2D(width, size, padding="same", **options)(x)


def norm_relu(x: Any, epsilon: float) -> Any:
    return keras.layers.ReLU()(keras.layers.BatchNormalization(epsilon=epsilon)(x))


def stage(x: Any, width: int, epsilon: float) -> Any:
    x = keras.layers.MaxPooling2D()(norm_relu(conv(x, width, 3, name=f"entry_{width}"), epsilon))
    inner = keras.layers.Dropout(0.1)(conv(norm_relu(x, epsilon), width, 1))
    return keras.layers.Add()([x, conv(norm_relu(inner, epsilon), width, 3)])


def keras_network(channels: int, epsilon: float = 1e-3) -> Any:
    """CNN-Res as a user might write it, with custom names and dropout."""
    x = images = keras.Input((None, None, channels))
    skips = []
    for width in PUBLISHED.encoder:
        x = stage(x, width, epsilon)
        skips.append(x)
    x = conv(stage(x, PUBLISHED.bottleneck, epsilon), PUBLISHED.bottleneck_out, 1)
    for width, skip in zip(PUBLISHED.decoder, [*reversed(skips), None], strict=True):
        x = keras.layers.UpSampling2D()(x)
        if skip is not None:
            x = keras.layers.Concatenate()([x, skip])
        x = conv(x, width, 3, activation="relu")
    return keras.Model(images, conv(x, 1, 1, activation="sigmoid", name="head"))


def randomise(model: Any) -> None:
    """Draw all weights so that activations stay of order one and no two layers are equal."""
    rng = np.random.default_rng(7)
    for layer in model.layers:
        shapes = [weight.shape for weight in layer.weights]
        if isinstance(layer, keras.layers.Conv2D):
            scale = np.sqrt(1.25 / np.prod(shapes[0][:3]))
            layer.set_weights([rng.normal(0, scale, shapes[0]), rng.normal(0, 0.1, shapes[1])])
        elif shapes:
            gamma, variance = rng.uniform(0.5, 1.5, (2, *shapes[0]))
            beta, mean = rng.normal(0, 0.2, (2, *shapes[0]))
            layer.set_weights([gamma, beta, mean, variance])


def largest_difference(model: Any, path: Path, **options: float) -> float:
    """Largest difference of Keras's and our probabilities, which must vary."""
    network = load_keras_weights(path, **options)
    assert not network.training
    shape = (2, network.in_channels, 64, 96)
    images = np.random.default_rng(8).normal(size=shape).astype(np.float32)
    with torch.no_grad():
        theirs = model(images.transpose(0, 2, 3, 1), training=False).cpu().numpy()
        ours = network(torch.from_numpy(images)).numpy().transpose(0, 2, 3, 1)
    assert theirs.shape == ours.shape
    assert np.ptp(theirs) > 0.5
    return float(np.abs(theirs - ours).max())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model with one input channel, and a folder with a file of each layout."""
    folder = tmp_path_factory.mktemp("keras")
    model = keras_network(channels=1)
    randomise(model)
    model.save_weights(folder / LAYOUTS[0])
    model.save(folder / LAYOUTS[1])
    return model, folder


def altered(saved: tuple[Any, Path], layout: str, tmp_path: Path, edit: Edit) -> Path:
    path = Path(shutil.copy(saved[1] / layout, tmp_path))
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def replaced(name: str, values: NDArray[Any]) -> Edit:
    def edit(file: Any) -> None:
        del file[name]
        file[name] = values

    return edit


def removed(name: str) -> Edit:
    return lambda file: file.__delitem__(name)


def linked(file: Any) -> None:
    del file["layers/conv2d/vars/1"]
    file["layers/conv2d/vars/1"] = h5py.ExternalLink("other.h5", "bias")


def kept_outside(file: Any) -> None:
    del file["layers/conv2d/vars/1"]
    outside = [("other.h5", 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("layers/conv2d/vars/1", (32,), np.float32, external=outside)


def virtual(file: Any) -> None:
    del file["layers/conv2d/vars/1"]
    layout = h5py.VirtualLayout((32,), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "bias", (32,))
    file.create_virtual_dataset("layers/conv2d/vars/1", layout)


def renamed(attribute: str, names: Callable[[list[str]], list[str]]) -> Edit:
    def edit(file: Any) -> None:
        attributes = file["model_weights"].attrs
        attributes[attribute] = names(list(attributes[attribute]))

    return edit


@pytest.mark.parametrize("layout", LAYOUTS)
def test_computes_what_keras_computes(saved: tuple[Any, Path], layout: str) -> None:
    model, folder = saved
    assert largest_difference(model, folder / layout) <= 1e-5


def test_reads_layers_listed_at_the_top(saved: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = saved
    path = tmp_path / "weights.h5"
    with h5py.File(folder / "model.h5") as source, h5py.File(path, "w") as target:
        weights = source["model_weights"]
        for name in weights:
            weights.copy(name, target)
        target.attrs["layer_names"] = [name.encode() for name in weights.attrs["layer_names"]]
    assert largest_difference(model, path) <= 1e-5


def test_reads_two_channels_and_another_epsilon(tmp_path: Path) -> None:
    model = keras_network(channels=2, epsilon=0.05)
    randomise(model)
    model.compile("adam", "mse")
    weights, whole = (tmp_path / layout for layout in LAYOUTS)
    model.save_weights(weights)
    model.save(whole)
    assert load_keras_weights(weights).in_channels == 2
    assert largest_difference(model, weights, epsilon=0.05) <= 1e-5
    assert largest_difference(model, whole) <= 1e-5


def test_layers_are_ordered_by_number_not_by_text(saved: tuple[Any, Path]) -> None:
    _, folder = saved
    network = load_keras_weights(folder / "model.weights.h5")
    with h5py.File(folder / "model.weights.h5") as file:
        kernel = file["layers/conv2d_10/vars/0"][()]
    residual = network.residuals[3].get_submodule("conv1")
    weight = residual.get_parameter("weight").detach().numpy()
    np.testing.assert_array_equal(weight[:, :, 0, 0], kernel[0, 0].T)


def test_refuses_files_that_are_not_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    path.write_bytes(b"PK\x03\x04, say, a .keras archive")
    with pytest.raises(BundleError, match=r"model\.weights\.h5 cannot be used.*signature"):
        load_keras_weights(path)


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No such file"):
        load_keras_weights(tmp_path / "model.weights.h5")


def test_refuses_a_truncated_file(saved: tuple[Any, Path], tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    path.write_bytes((saved[1] / path.name).read_bytes()[:-1000])
    with pytest.raises(BundleError, match="truncated"):
        load_keras_weights(path)


def test_refuses_other_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros(3)
    with pytest.raises(BundleError, match=r"neither a group 'layers'.*save_weights"):
        load_keras_weights(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            replaced("layers/conv2d_1/vars/0", np.zeros((3, 3, 32, 32), np.float32)),
            r"layer conv2d_1: kernel has shape \(3, 3, 32, 32\), expected \(1, 1, 32, 32\)",
        ),
        (
            replaced("layers/conv2d/vars/0", np.zeros((5, 5), np.float32)),
            r"layer conv2d: kernel has shape \(5, 5\), expected \(3, 3, input channels, 32\)",
        ),
        (
            replaced("layers/batch_normalization_14/vars/3", np.ones(511, np.float32)),
            r"batch_normalization_14: moving variance has shape \(511,\), expected \(512,\)",
        ),
        (
            replaced("layers/batch_normalization/vars/3", -np.ones(32, np.float32)),
            "batch_normalization: moving variance has negative values",
        ),
        (
            replaced("layers/conv2d_3/vars/1", np.full(64, np.nan, np.float32)),
            "conv2d_3: bias has values that are not finite",
        ),
        (
            replaced("layers/conv2d_3/vars/1", np.zeros(64, np.int32)),
            "conv2d_3: bias has type int32",
        ),
        (removed("layers/conv2d_5"), "group 'conv2d_5/vars' is missing"),
        (removed("layers/conv2d/vars/0"), "layer conv2d: kernel has shape None"),
        (
            removed("layers/batch_normalization_2/vars/3"),
            "batch_normalization_2 has 3 tensors, expected 4: gamma, beta, moving mean",
        ),
        (
            lambda file: file.copy("layers/conv2d_21", "layers/conv2d_22"),
            "layers that CNN-Res lacks: conv2d_22",
        ),
    ],
)
def test_refuses_weights_of_another_network(
    saved: tuple[Any, Path], tmp_path: Path, edit: Edit, message: str
) -> None:
    path = altered(saved, "model.weights.h5", tmp_path, edit)
    with pytest.raises(BundleError, match=message):
        load_keras_weights(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            replaced("model_weights/head/head/kernel", np.zeros((1, 1, 32, 2), np.float32)),
            r"layer head: kernel has shape \(1, 1, 32, 2\), expected \(1, 1, 32, 1\)",
        ),
        (removed("model_weights/head"), "group 'head' is missing"),
        (removed("model_weights/head/head/bias"), "layer head: bias is missing"),
        (renamed("layer_names", lambda names: names[:-1]), "36 layers with weights.* has 37"),
        (renamed("layer_names", lambda names: names[::-1]), "layer head: kernel has shape"),
        (
            lambda file: file.attrs.__setitem__("model_config", json.dumps({"config": []})),
            "model_config is malformed",
        ),
    ],
)
def test_refuses_a_whole_model_of_another_network(
    saved: tuple[Any, Path], tmp_path: Path, edit: Edit, message: str
) -> None:
    path = altered(saved, "model.h5", tmp_path, edit)
    with pytest.raises(BundleError, match=message):
        load_keras_weights(path)


@pytest.mark.parametrize("edit", [linked, kept_outside, virtual])
def test_refuses_values_from_another_file(
    saved: tuple[Any, Path], tmp_path: Path, edit: Edit
) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["bias"] = np.zeros(32, np.float32)
    path = altered(saved, "model.weights.h5", tmp_path, edit)
    with pytest.raises(BundleError, match="another file"):
        load_keras_weights(path)
