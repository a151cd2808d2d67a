"""Exporting the PyTorch network to ONNX files."""

import logging
import warnings
from collections.abc import Iterable, Sequence

import onnx
import onnxslim
import torch
from torch import nn

from export.half import in_half
from export.passes import rewritten
from network.cnnres import CNNRes, folded

OPSET = 18
INPUT, OUTPUT = "images", "probabilities"
_DIMENSIONS = ("batch", "channels", "height", "width")
# The rewritings that measurements showed to be fastest for a variant of the float network.
PASSES_OF = {
    "fp32-cpu": ("head-before-upsampling", "upsampling-to-transposed-convs"),
    "fp16": ("head-before-upsampling",),
}
_PRODUCER = "cnnres-infer"
# The network halves heights and widths five times.
_STEP = 32


def to_onnx(network: nn.Module, in_channels: int, sides: Sequence[int]) -> bytes:
    """Export a network with a dynamic batch size, and dynamic height and width if they have to be.

    It leaves no trace of this machine in the file.

    Parameters
    ----------
    network
        Maps (N, C, H, W) to (N, 1, H, W), both float32.
    sides
        Heights and widths that images may have, all multiples of 32.

    Returns
    -------
    bytes
        A serialised ONNX model of opset 18 without external data.
    """
    example = torch.zeros(2, in_channels, sides[0], sides[-1])
    dimensions = {0: torch.export.Dim("batch", min=1, max=4096)}
    if len(sides) > 1:
        dimensions |= {2: _STEP * torch.export.Dim("h"), 3: _STEP * torch.export.Dim("w")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(dimensions,),
            verbose=False,
        )
    assert program is not None
    model = onnxslim.slim(program.model_proto)
    _strip(model)
    _name_dimensions(model)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def variants(network: CNNRes, sides: Sequence[int]) -> dict[str, bytes]:
    """The float variants of a network, as ONNX files.

    ``fp32`` is the network itself, ``fp32-cpu`` the same network rewritten for
    CPUs, and ``fp16`` a version that computes mostly in float16.
    """
    exact = to_onnx(folded(network), network.in_channels, sides)
    return {"fp32": exact, **{name: variant_of(exact, name) for name in PASSES_OF}}


def variant_of(exact: bytes, variant: str) -> bytes:
    """Another float variant of the fp32 file, by its rewritings and in its type."""
    model = rewritten(onnx.load_from_string(exact), PASSES_OF[variant])
    return bytes((in_half(model) if variant == "fp16" else model).SerializeToString())


def rewritten_model(model: bytes, passes: Iterable[str]) -> bytes:
    """A serialised network after the named rewritings of `export.passes`."""
    return bytes(rewritten(onnx.load_from_string(model), passes).SerializeToString())


def _name_dimensions(model: onnx.ModelProto) -> None:
    """Call dynamic dimensions by their names instead of by formulas."""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, _DIMENSIONS, strict=True):
            if dimension.dim_param:
                dimension.dim_param = name


def _strip(model: onnx.ModelProto) -> None:
    """Remove source paths and other traces of the exporting machine."""
    model.producer_name, model.producer_version = _PRODUCER, ""
    model.doc_string = model.graph.doc_string = ""
    model.graph.name = _PRODUCER
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for initializer in model.graph.initializer:
        del initializer.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
