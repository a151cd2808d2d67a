"""Candidates for an INT8 variant: made, named and run."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx

from calibration.blocks import Block, layers
from calibration.plan import Plan
from calibration.qdq import quantised
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import Engine, ModelFile
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.engines.openvino import OpenVinoEngine
from cnnres_infer.host.machine import cpu_features, usable_cores
from export.torch_graph import TorchGraph
from network.engine import TorchEngine


@dataclass(frozen=True, eq=False)
class Candidate:
    """A float network and a plan to quantise it.

    Attributes
    ----------
    model
        The float network.
    plan
        What of it is quantised.
    in_float
        The blocks that are kept in float besides the first convolution and the head.
    sides
        Heights and widths that its images may have; empty if the network has one size.
    """

    model: onnx.ModelProto
    plan: Plan
    in_float: Sequence[Block] = ()
    sides: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """How it was made, for tables."""
        names = sorted(block.name for block in self.in_float)
        return "; in float: ".join(["balanced", *([", ".join(names)] if names else [])])

    @cached_property
    def onnx(self) -> bytes:
        """The quantised network as an ONNX file."""
        return bytes(quantised(self.model, self.plan).SerializeToString())

    @cached_property
    def share_in_int8(self) -> float:
        """Share of the multiply-adds that are computed in INT8."""
        return sum(layer.share for layer in layers(self.model) if layer.convs <= self.plan.convs)

    @property
    def _file(self) -> ModelFile:
        # Nobody opens a candidate again: compiled, it would only fill the user's cache.
        return ModelFile(self.plan.scheme.variant, self.onnx, self.sides, use_cache=False)

    def engine(self) -> Engine:
        """The quantised network, opened in ONNX Runtime if it computes here what is meant.

        It computes float16 in float32, and 8 bits not exactly on every processor: then
        PyTorch does.
        """
        if self.plan.scheme.half or _saturates():
            graph = TorchGraph(onnx.load_from_string(self.onnx))
            return TorchEngine(graph, usable_cores(), Precision.INT8, self.sides)
        return OrtEngine.open(self._file, Precision.INT8, usable_cores())

    def openvino_engine(self) -> OpenVinoEngine | None:
        """The quantised network, opened in OpenVINO; None if OpenVINO cannot run it here."""
        serves = self.plan.scheme.variant in OpenVinoEngine.VARIANTS[Precision.INT8]
        if not serves or _saturates() or not OpenVinoEngine.probe().usable:
            return None
        return OpenVinoEngine.open(self._file, Precision.INT8, usable_cores())


def _saturates() -> bool:
    """Whether sums of two products of 8 bits overflow, as on x86 without VNNI.

    Runtimes there add them up in 16 bits. How much that changes is up to the processor,
    and each machine's own check of its engine finds it out.
    """
    return cpu_features().get("VNNI") is False
