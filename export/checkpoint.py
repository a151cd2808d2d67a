"""Reading trained weights, without ever unpickling anything."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from cnnres_infer.errors import BundleError
from export.keras_weights import load_keras_weights
from training.network import CNNRes

_FIRST_KERNEL = "translations.0.conv.weight"


def load_checkpoint(path: Path) -> CNNRes:
    """Read weights of CNN-Res, in eval mode.

    Parameters
    ----------
    path
        ``.safetensors`` as written by ``python -m training``, or ``.h5`` as
        written by Keras 3.

    Raises
    ------
    BundleError
        If the file is of another kind, or its tensors are not those of CNN-Res.
    """
    if path.suffix == ".h5":
        return load_keras_weights(path)
    if path.suffix != ".safetensors":
        raise BundleError(f"{path}: give a .safetensors or a Keras .h5 file")
    try:
        tensors = load_file(path)
        network = CNNRes(tensors[_FIRST_KERNEL].shape[1])
        network.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise BundleError(f"{path}: no weights of CNN-Res ({error})") from error
    return network.eval()
