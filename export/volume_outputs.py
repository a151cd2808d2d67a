"""What PyTorch makes of a whole volume: the yardstick for engines elsewhere."""

from pathlib import Path

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.case import Case
from cnnres_infer.core.precision import Precision
from cnnres_infer.errors import BundleError
from cnnres_infer.host.machine import usable_cores
from cnnres_infer.verification.recording import record_case
from cnnres_infer.verification.reference import VolumeReference
from network.checkpoint import load_checkpoint
from network.engine import TorchEngine


def torch_engine(
    bundle: Bundle, checkpoint: Path | None = None, precision: Precision = Precision.FP32
) -> TorchEngine:
    """PyTorch with the weights of a bundle's fp32 file, or of the checkpoint it was made from.

    Parameters
    ----------
    precision
        See `TorchEngine`.

    Raises
    ------
    BundleError
        If the weights cannot be read or do not suit the bundle.
    """
    if checkpoint is None:
        bundle.model("fp32")
        checkpoint = bundle.folder / bundle.variants["fp32"]
    network = load_checkpoint(checkpoint)
    if network.in_channels != bundle.spec.channels:
        raise BundleError(
            f"{checkpoint}: a network of {network.in_channels} channels; "
            f"{bundle.folder} needs {bundle.spec.channels}"
        )
    return TorchEngine(network, usable_cores(), precision)


def volume_reference(bundle: Bundle, engine: TorchEngine, case: Case) -> VolumeReference:
    """PyTorch's outputs for a case, bound to it and to the bundle."""
    return VolumeReference.of(record_case(bundle, engine, case), bundle, engine, case)
