"""Loading of trained weights, without unpickling."""

from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import BundleError
from network.cnnres import PUBLISHED, CNNRes, Widths, without_folded_norms
from network.keras_weights import KERAS_EPSILON, load_keras_weights

_FIRST_KERNEL = "translations.0.conv.weight"


def load_checkpoint(
    path: Path, epsilon: float = KERAS_EPSILON, widths: Widths = PUBLISHED
) -> CNNRes:
    """Load weights of CNN-Res.

    Parameters
    ----------
    path
        ``.safetensors`` as written by ``python -m training``, ``.h5`` as written
        by Keras, or the ``.onnx`` of a bundle's fp32 variant, whose batch norms
        are already folded.
    epsilon
        Epsilon of the batch norms, for Keras files that do not contain it.
    widths
        Widths of the network, if they are not the paper's; those of Keras files
        always are.

    Returns
    -------
    CNNRes
        The network in evaluation mode.

    Raises
    ------
    BundleError
        If the file is missing or of another kind, or its tensors are not those of CNN-Res.
    """
    if not path.exists():
        raise BundleError(f"{path}: no such file", code=ErrorCode.FILE_MISSING)
    if path.suffix == ".h5":
        return load_keras_weights(path, epsilon)
    readers = {".safetensors": load_file, ".onnx": _onnx_tensors}
    if path.suffix not in readers:
        raise BundleError(f"{path}: give a .safetensors, a Keras .h5 or a bundle's fp32 .onnx file")
    try:
        tensors = readers[path.suffix](path)
        network = CNNRes(tensors[_FIRST_KERNEL].shape[1], widths)
        if path.suffix == ".onnx":
            network = without_folded_norms(network)
        network.load_state_dict({**_counters(network), **tensors})
    except (SafetensorError, DecodeError, OSError, KeyError, RuntimeError) as error:
        raise BundleError(
            f"{path}: not weights of CNN-Res ({error}); give a checkpoint of this network"
        ) from error
    return network.eval()


def _onnx_tensors(path: Path) -> dict[str, Tensor]:
    graph = onnx.load(path, load_external_data=False).graph
    return {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in graph.initializer
        if tensor.name.split(".")[-1] in ("weight", "bias", "running_mean", "running_var")
    }


def _counters(network: CNNRes) -> dict[str, Tensor]:
    """The step counters of the batch norms, which an ONNX file does not contain."""
    state: dict[str, Tensor] = network.state_dict()
    return {name: value for name, value in state.items() if name.endswith("num_batches_tracked")}
