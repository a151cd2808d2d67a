"""PyTorch's outputs for a whole volume, which engines elsewhere are compared with."""

from pathlib import Path

import onnx

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.case import Case
from cnnres_infer.core.precision import Precision
from cnnres_infer.errors import BundleError
from cnnres_infer.host.machine import usable_cores
from cnnres_infer.verification.recording import record_case
from cnnres_infer.verification.reference import VolumeReference
from export.torch_graph import TorchGraph
from network.checkpoint import load_checkpoint
from network.engine import TorchEngine


def torch_engine(
    bundle: Bundle, checkpoint: Path | None = None, precision: Precision = Precision.FP32
) -> TorchEngine:
    """Open PyTorch with a bundle's weights, or with the file of a precision for GPUs.

    Parameters
    ----------
    checkpoint
        The checkpoint that the bundle was made from; by default its fp32 file.
    precision
        ``"fp32"`` for the checkpoint; ``"fp16"`` or ``"int8"`` for the variant that GPUs
        read, which ONNX Runtime cannot compute on a CPU; see `export.torch_graph`.

    Raises
    ------
    BundleError
        If the weights cannot be read, or have another number of channels.
    """
    sides = bundle.spec.slices.sides
    if precision is not Precision.FP32:
        (variant,) = TorchEngine.VARIANTS[precision]
        graph = TorchGraph(onnx.load_from_string(bundle.model(variant)))
        return TorchEngine(graph, usable_cores(), precision, sides)
    if checkpoint is None:
        bundle.model("fp32")
        checkpoint = bundle.folder / bundle.variants["fp32"]
    network = load_checkpoint(checkpoint)
    if network.in_channels != bundle.spec.channels:
        raise BundleError(
            f"{checkpoint}: the network has {network.in_channels} channels, but {bundle.folder} "
            f"needs {bundle.spec.channels}"
        )
    return TorchEngine(network, usable_cores(), sides=sides)


def volume_reference(bundle: Bundle, engine: TorchEngine, case: Case) -> VolumeReference:
    """PyTorch's outputs for a case, tied to its volumes and to the bundle."""
    return VolumeReference.of(record_case(bundle, engine, case), bundle, engine, case)
