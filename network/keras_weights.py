"""Loading the weights of a CNN-Res that was trained in Keras.

Keras writes HDF5 in two layouts, which differ at the top level of the file:

- ``model.save_weights("x.weights.h5")`` in Keras 3: a group ``layers`` with one
  group per layer, named after the layer's class and numbered per class in the
  order of the model (``conv2d``, ``conv2d_1``, …), with tensors ``vars/0``,
  ``vars/1``, …
- ``model.save("x.h5")``: a group ``model_weights``, whose attribute
  ``layer_names`` lists the layers in the order of the model, and the model's
  configuration as JSON. ``save_weights("x.h5")`` in Keras 2 writes the same
  without the enclosing group.

Keras sorts the layers of a functional model by their depth in the graph, and in
CNN-Res each layer with weights feeds the next. So both orders are that of the data
flow, whatever the names of the layers and the order in which they were created.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnres_infer.errors import BundleError
from network.cnnres import CNNRes

KERAS_EPSILON = 1e-3
# Keras's names of the tensors, in the order in which Keras stores them, and PyTorch's.
_CONVOLUTION = {"kernel": "weight", "bias": "bias"}
_BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving mean": "running_mean",
    "moving variance": "running_var",
}


@dataclass(frozen=True)
class _StoredLayer:
    """A Keras layer as stored in the file.

    Attributes
    ----------
    name
        Name of the layer in the file.
    tensors
        The objects in the places of its tensors, in Keras's order; not yet
        checked.
    """

    name: str
    tensors: list[object]


def load_keras_weights(path: Path, epsilon: float = KERAS_EPSILON) -> CNNRes:
    """Load the weights of a functional Keras model of CNN-Res.

    Nothing in the file is executed: it is read as numbers and JSON. Two properties
    of the model cannot be checked by the shapes, so the caller has to make sure
    that it concatenates [upsampled, skip] in this order, and that its input is
    normalised as the bundle says.

    Parameters
    ----------
    path
        HDF5 file in one of the layouts described in the module's documentation.
    epsilon
        Epsilon of the batch norms if the file does not contain it; by default,
        Keras's own.

    Returns
    -------
    CNNRes
        The network in evaluation mode, with as many input channels as the first
        kernel.

    Raises
    ------
    BundleError
        If the file cannot be read or its layers are not those of CNN-Res.
    """
    try:
        with h5py.File(path, "r") as file:
            return _network(file, epsilon)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(f"{path} cannot be used as Keras weights of CNN-Res: {error}") from error


def _network(file: h5py.File, epsilon: float) -> CNNRes:
    layers = _layers(file)
    epsilons = _epsilons(file)
    network = CNNRes(_in_channels(layers[0]))
    for module, layer in zip(_modules(network), layers, strict=True):
        _fill(module, layer)
        if isinstance(module, nn.BatchNorm2d):
            module.eps = epsilons.get(layer.name, epsilon)
    return network.eval()


def _modules(network: CNNRes) -> Iterator[nn.Module]:
    """Convolutions and batch norms in the order of the data flow."""
    stages = zip(network.translations, network.residuals, strict=True)
    blocks = [
        *(block for stage in stages for block in stage),
        network.bottleneck_translation,
        network.bottleneck_residual,
        network.bottleneck_out,
        *network.expansions,
        network.head,
    ]
    for block in blocks:
        for module in block.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                yield module


def _layers(file: h5py.File) -> list[_StoredLayer]:
    """Stored layers with weights, one for each of the network's modules."""
    modules = list(_modules(CNNRes()))
    if "layers" in file:
        return _counted_layers(_group(file, "layers"), modules)
    listed = _group(file, "model_weights") if "model_weights" in file else file
    if "layer_names" not in listed.attrs:
        raise BundleError(
            "it has neither a group 'layers' nor a list of layer names; "
            "save a functional model with model.save_weights('name.weights.h5')"
        )
    layers = _listed_layers(listed)
    if len(layers) != len(modules):
        raise BundleError(
            f"it has {len(layers)} layers with weights, but CNN-Res has {len(modules)}; "
            f"found: {', '.join(layer.name for layer in layers)}"
        )
    return layers


def _counted_layers(group: h5py.Group, modules: list[nn.Module]) -> list[_StoredLayer]:
    """Layers of a weights file, looked up by class and number."""
    numbers: defaultdict[str, Iterator[int]] = defaultdict(count)
    layers = []
    for module in modules:
        stem = "conv2d" if isinstance(module, nn.Conv2d) else "batch_normalization"
        number = next(numbers[stem])
        name = f"{stem}_{number}" if number else stem
        tensors = _group(group, f"{name}/vars")
        layers.append(_StoredLayer(name, [_child(tensors, str(i)) for i in range(len(tensors))]))
    unknown = _names_with_tensors(group) - {layer.name for layer in layers}
    if unknown:
        raise BundleError(f"it has layers that CNN-Res lacks: {', '.join(sorted(unknown))}")
    return layers


def _names_with_tensors(group: h5py.Group) -> set[str]:
    tensors = {name: _child(group, f"{name}/vars") for name in group}
    return {name for name, found in tensors.items() if isinstance(found, h5py.Group) and len(found)}


def _listed_layers(group: h5py.Group) -> list[_StoredLayer]:
    """Layers of a model file that have weights, in the order in which it lists them."""
    layers = []
    for name in _strings(group, "layer_names"):
        layer = _group(group, name)
        tensors = [_child(layer, tensor) for tensor in _strings(layer, "weight_names")]
        if tensors:
            layers.append(_StoredLayer(name, tensors))
    return layers


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    group = _child(parent, name)
    if not isinstance(group, h5py.Group):
        raise BundleError(f"group '{name}' is missing")
    return group


def _child(parent: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Look up an object by name, and refuse it if it is a link to another file."""
    child = parent.get(name)
    if child is not None and child.file.filename != parent.file.filename:
        raise BundleError(f"'{name}' is a link to another file, {child.file.filename}")
    return child


def _strings(group: h5py.Group, attribute: str) -> list[str]:
    """Read an attribute that is a list of strings, which Keras 2 wrote as bytes."""
    values = np.atleast_1d(group.attrs.get(attribute, []))
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _epsilons(file: h5py.File) -> dict[str, float]:
    """Epsilon of each batch norm by layer name; empty if the file contains no configuration."""
    if "model_config" not in file.attrs:
        return {}
    try:
        config = json.loads(file.attrs["model_config"])["config"]
        configs = [layer["config"] for layer in config["layers"]]
        return {c["name"]: float(c["epsilon"]) for c in configs if "epsilon" in c}
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"its model_config is malformed: {error!r}") from error


def _in_channels(layer: _StoredLayer) -> int:
    kernel = layer.tensors[0] if layer.tensors else None
    shape = kernel.shape if isinstance(kernel, h5py.Dataset) else None
    if shape is None or len(shape) != 4 or shape[2] < 1:
        raise BundleError(
            f"layer {layer.name}: kernel has shape {shape}, expected (3, 3, input channels, 32)"
        )
    return int(shape[2])


def _fill(module: nn.Module, layer: _StoredLayer) -> None:
    """Copy a stored layer into a module; each tensor is checked before it is read."""
    targets = _targets(module)
    if len(layer.tensors) != len(targets):
        raise BundleError(
            f"layer {layer.name} has {len(layer.tensors)} tensors, "
            f"expected {len(targets)}: {', '.join(targets)}"
        )
    for (role, target), stored in zip(targets.items(), layer.tensors, strict=True):
        label = f"layer {layer.name}: {role}"
        values = _values(stored, tuple(target.shape), label)
        if role == "moving variance" and values.min() < 0:
            raise BundleError(f"{label} has negative values")
        target.copy_(torch.from_numpy(values))


def _targets(module: nn.Module) -> dict[str, Tensor]:
    """Views of the module's tensors by Keras's names; kernels with Keras's axes, HWIO."""
    names = _CONVOLUTION if isinstance(module, nn.Conv2d) else _BATCH_NORM
    state = module.state_dict()
    targets = {theirs: state[ours] for theirs, ours in names.items()}
    if "kernel" in targets:
        targets["kernel"] = targets["kernel"].permute(2, 3, 1, 0)
    return targets


def _values(stored: object, shape: tuple[int, ...], label: str) -> NDArray[np.float32]:
    if not isinstance(stored, h5py.Dataset):
        raise BundleError(f"{label} is missing")
    if stored.shape != shape:
        raise BundleError(f"{label} has shape {stored.shape}, expected {shape}")
    if stored.external or stored.is_virtual:
        raise BundleError(f"{label} keeps its values in another file")
    if stored.dtype.kind != "f":
        raise BundleError(f"{label} has type {stored.dtype}, expected floating point")
    values: NDArray[np.float32] = stored[()].astype(np.float32)
    if not np.isfinite(values).all():
        raise BundleError(f"{label} has values that are not finite")
    return values
