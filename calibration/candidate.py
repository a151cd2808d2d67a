"""Candidates for an INT8 variant: how one is made, computed and named."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Self

import onnx

from calibration.bias import bias_corrected
from calibration.blocks import Block, layers
from calibration.closeness import Closeness
from calibration.equalise import channel_peaks, equalised
from calibration.fake import Graph
from calibration.plan import Plan, Scheme, make_plan, spared
from calibration.qdq import quantised
from calibration.ranges import Observer, observe
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import ModelFile, run_all
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.engines.openvino import OpenVinoEngine
from cnnres_infer.host.machine import usable_cores

_CORRECTION_SLICES = 32
_IMAGE_RANGE = (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network and the plan of its quantisation.

    Attributes
    ----------
    name
        What was done, for tables.
    model
        The float network.
    plan
        What of it is quantised.
    """

    name: str
    model: onnx.ModelProto
    plan: Plan

    @classmethod
    def observed(
        cls,
        name: str,
        model: onnx.ModelProto,
        scheme: Scheme,
        images: FloatArray,
        observer: Observer,
    ) -> Self:
        """Quantise by the ranges that an observer finds on images (N, C, H, W)."""
        ranges = observe(model, images, observer)
        ranges[model.graph.input[0].name] = _IMAGE_RANGE
        return cls(name, model, make_plan(model, ranges, scheme))

    @cached_property
    def onnx(self) -> bytes:
        """The quantised network as ONNX."""
        return bytes(quantised(self.model, self.plan).SerializeToString())

    def corrected(self, images: FloatArray) -> Self:
        """Correct the biases on images."""
        model = bias_corrected(self.model, self.plan, images[:_CORRECTION_SLICES])
        return replace(self, name=f"{self.name}, bias corrected", model=model)

    def in_float(self, blocks: Iterable[Block]) -> Self:
        """Leave some blocks in float."""
        left = list(blocks)
        if not left:
            return self
        convs = frozenset().union(*(block.convs for block in left))
        names = ", ".join(sorted(block.name for block in left))
        plan = spared(self.model, self.plan, convs)
        return replace(self, name=f"{self.name}; in float: {names}", plan=plan)

    @cached_property
    def share_in_float(self) -> float:
        """Share of the multiply-adds that is left in float."""
        return 1 - sum(x.share for x in layers(self.model) if x.convs <= self.plan.convs)

    @property
    def _file(self) -> ModelFile:
        return ModelFile(self.plan.scheme.variant, self.onnx)

    def engine(self) -> OrtEngine:
        """It, opened in ONNX Runtime on the CPU."""
        return OrtEngine.open(self._file, Precision.INT8, usable_cores())

    def error(self, closeness: Closeness) -> float:
        """Its error, computed in ONNX Runtime."""
        with self.engine() as engine:
            return closeness(partial(run_all, engine))

    def elsewhere(self) -> OpenVinoEngine | None:
        """It, opened in OpenVINO, which rounds in other places; None if that cannot compute it."""
        serves = self.plan.scheme.variant in OpenVinoEngine.VARIANTS[Precision.INT8]
        if not serves or not OpenVinoEngine.probe().usable:
            return None
        return OpenVinoEngine.open(self._file, Precision.INT8, usable_cores())


def evened(model: onnx.ModelProto, images: FloatArray) -> onnx.ModelProto:
    """The same network with the ranges of its channels equalised on images."""
    return equalised(model, channel_peaks(Graph(model), images[:_CORRECTION_SLICES]))
