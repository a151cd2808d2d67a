"""The search for an INT8 variant: what is tried, in which order, and how each trial did."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from calibration.balance import balancing_factors
from calibration.blocks import Block
from calibration.candidate import Candidate
from calibration.channels import Channels
from calibration.judge import Judge, Verdict
from calibration.logit_error import LogitError
from calibration.noise import NoiseModel, Statistics
from calibration.plan import Plan, Scheme
from calibration.sensitivity import LayerSensitivity, layer_sensitivities, most_sensitive_block
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.batch import SliceBatch
from cnnres_infer.core.crops import cropped
from cnnres_infer.engines.base import run_all
from cnnres_infer.verification.agreement import Gate
from export.passes import rewritten

_SMALLEST_SHARE = 0.2
_BATCH = 8


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate and its figures.

    Attributes
    ----------
    candidate
        What was tried.
    engine
        The backend that computed it, or ``"torch"``.
    error
        Logit error on the slices of the calibration patients.
    verdict
        On the gate's patients. The candidate that is kept is chosen by it, so its
        figures are slightly optimistic.
    openvino
        The same in OpenVINO, which runs the same file as ONNX Runtime but rounds in
        other places; None if the candidate fails in ONNX Runtime or OpenVINO cannot
        run it here.
    """

    candidate: Candidate
    engine: str
    error: float
    verdict: Verdict
    openvino: Verdict | None

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "variant": self.candidate.plan.scheme.variant,
            "tried": self.candidate.name,
            "engine": self.engine,
            "share_in_int8": self.candidate.share_in_int8,
            "logit_error": self.error,
            **self.verdict.to_json(),
            "openvino": self.openvino and self.openvino.to_json(),
        }

    def misses(self, gate: Gate) -> tuple[str, ...]:
        """Where the gate is missed, in words; nothing if it passes."""
        openvino = () if self.openvino is None else self.openvino.misses(gate)
        return (*self.verdict.misses(gate), *(f"in OpenVINO, {text}" for text in openvino))


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The outcome of a search.

    Attributes
    ----------
    trials
        In the order in which they were made.
    best
        The trial that passes the gate; if none does, the one with the smallest
        logit error.
    layers
        Sensitivity of each layer, from the highest to the lowest.
    """

    trials: tuple[Trial, ...]
    best: Trial
    layers: tuple[LayerSensitivity, ...]


@dataclass(frozen=True, eq=False)
class Search:
    """A search for a candidate that passes the gate.

    Attributes
    ----------
    model
        The float network.
    images
        Calibration slices (N, C, H, W).
    threshold
        Probability from which a pixel is lesion.
    logit_error
        Compares with PyTorch on the calibration patients.
    judge
        Compares with PyTorch and the expert masks on the gate's patients.
    gate
        What a candidate must reach.
    seed
        Of the estimate of derivatives.
    sides
        Heights and widths that images may have; empty if the network has one size.
    """

    model: onnx.ModelProto
    images: FloatArray
    threshold: float
    logit_error: LogitError
    judge: Judge
    gate: Gate
    seed: int = 0
    sides: tuple[int, ...] = ()

    def run(self, scheme: Scheme, report: Callable[[Trial], None]) -> SearchResult:
        """Try candidates until one passes the gate.

        In the first, all layers but the first and the head are computed in 8 bits.
        Each further one keeps one block more in float: the one that is predicted to
        make the most error for what that costs. Channels are balanced anew for each.

        Parameters
        ----------
        report
            Called with each trial.
        """
        noise = self._noise_model(scheme)
        trials: list[Trial] = []
        layers: list[LayerSensitivity] = []
        for kept, plan, factors in _plans(noise, scheme):
            layers = layers or layer_sensitivities(noise, plan, factors)
            model = noise.channels.scaled(factors.numpy())
            trials.append(self._measured(Candidate(model, plan, kept, self.sides)))
            report(trials[-1])
            if not trials[-1].misses(self.gate):
                break
        return SearchResult(tuple(trials), self._best(trials), tuple(layers))

    def _noise_model(self, scheme: Scheme) -> NoiseModel:
        channels = Channels.of(rewritten(self.model, scheme.passes))
        batches = cropped(
            [SliceBatch(self.images, np.arange(len(self.images)))],
            self.sides or self.images.shape[3:],
            _BATCH,
        )
        images = (batch.images for batch in batches)
        return NoiseModel(channels, Statistics.of(channels, images, self.threshold, self.seed))

    def _measured(self, candidate: Candidate) -> Trial:
        with candidate.engine() as engine:
            network = partial(run_all, engine)
            verdict = self.judge(network)
            passes = not verdict.misses(self.gate)
            return Trial(
                candidate,
                engine.describe().backend,
                self.logit_error(network),
                verdict,
                self._judged_in_openvino(candidate) if passes else None,
            )

    def _judged_in_openvino(self, candidate: Candidate) -> Verdict | None:
        engine = candidate.openvino_engine()
        if engine is None:
            return None
        with engine:
            return self.judge(partial(run_all, engine))

    def _best(self, trials: list[Trial]) -> Trial:
        """The last trial if it passes, else that of the smallest error."""
        if trials[-1].misses(self.gate):
            return min(trials, key=lambda trial: trial.error)
        return trials[-1]


def _plans(noise: NoiseModel, scheme: Scheme) -> Iterator[tuple[tuple[Block, ...], Plan, Tensor]]:
    """Plans with more and more blocks in float, with these and the factors that suit the plan."""
    kept: tuple[Block, ...] = ()
    share = 1.0
    while share > _SMALLEST_SHARE:
        plan, factors = _balanced(noise, scheme, kept)
        yield kept, plan, factors
        kept = (*kept, most_sensitive_block(noise, plan, factors))
        share = 1 - sum(block.share for block in kept)


def _balanced(noise: NoiseModel, scheme: Scheme, in_float: Iterable[Block]) -> tuple[Plan, Tensor]:
    """A plan with some blocks in float, for the factors that suit it."""
    convs = frozenset[str]().union(*(block.convs for block in in_float))
    ones = torch.ones(len(noise.channels.partners))
    factors = balancing_factors(noise, noise.plan(ones, scheme, convs))
    return noise.plan(factors, scheme, convs), factors
