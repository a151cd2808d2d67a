"""Candidates for an INT8 variant: made, named and run."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Self

import onnx

from calibration.bias import bias_corrected
from calibration.blocks import Block, layers
from calibration.logit_error import LogitError
from calibration.plan import Plan, Scheme, keep_in_float, make_plan
from calibration.qdq import quantised
from calibration.ranges import Observer, observe
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import ModelFile, run_all
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.engines.openvino import OpenVinoEngine
from cnnres_infer.host.machine import usable_cores

_IMAGE_RANGE = (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A float network and a plan to quantise it.

    Attributes
    ----------
    name
        How it was made, for tables.
    model
        The float network.
    plan
        What of it is quantised.
    sides
        Heights and widths that its images may have; empty if the network has one size.
    """

    name: str
    model: onnx.ModelProto
    plan: Plan
    sides: tuple[int, ...] = ()

    @classmethod
    def observed(
        cls,
        name: str,
        model: onnx.ModelProto,
        scheme: Scheme,
        images: FloatArray,
        observer: Observer,
        sides: tuple[int, ...] = (),
    ) -> Self:
        """Quantise a network to the ranges observed on images (N, C, H, W)."""
        ranges = observe(model, images, observer)
        ranges[model.graph.input[0].name] = _IMAGE_RANGE
        return cls(name, model, make_plan(model, ranges, scheme), sides)

    @cached_property
    def onnx(self) -> bytes:
        """The quantised network as an ONNX file."""
        return bytes(quantised(self.model, self.plan).SerializeToString())

    def corrected(self, images: FloatArray) -> Self:
        """Correct the biases by the mean errors on images (N, C, H, W)."""
        model = bias_corrected(self.model, self.plan, images)
        return replace(self, name=f"{self.name}, bias corrected", model=model)

    def in_float(self, blocks: Iterable[Block]) -> Self:
        """Keep some blocks in float."""
        kept = list(blocks)
        if not kept:
            return self
        convs = frozenset().union(*(block.convs for block in kept))
        names = ", ".join(sorted(block.name for block in kept))
        plan = keep_in_float(self.model, self.plan, convs)
        return replace(self, name=f"{self.name}; in float: {names}", plan=plan)

    @cached_property
    def share_in_float(self) -> float:
        """Share of the multiply-adds that are computed in float."""
        return 1 - sum(x.share for x in layers(self.model) if x.convs <= self.plan.convs)

    @property
    def _file(self) -> ModelFile:
        return ModelFile(self.plan.scheme.variant, self.onnx, self.sides)

    def ort_engine(self) -> OrtEngine:
        """The quantised network, opened in ONNX Runtime on the CPU."""
        return OrtEngine.open(self._file, Precision.INT8, usable_cores())

    def openvino_engine(self) -> OpenVinoEngine | None:
        """The quantised network, opened in OpenVINO; None if OpenVINO cannot run it here."""
        serves = self.plan.scheme.variant in OpenVinoEngine.VARIANTS[Precision.INT8]
        if not serves or not OpenVinoEngine.probe().usable:
            return None
        return OpenVinoEngine.open(self._file, Precision.INT8, usable_cores())

    def error(self, logit_error: LogitError) -> float:
        """Its logit error in ONNX Runtime."""
        with self.ort_engine() as engine:
            return logit_error(partial(run_all, engine))
