"""The search for an INT8 variant: what is tried, in which order, and how each trial did."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import onnx

from calibration.blocks import blocks
from calibration.candidate import Candidate
from calibration.equalise import equalised
from calibration.judge import Judge, Verdict
from calibration.logit_error import LogitError
from calibration.plan import Scheme
from calibration.ranges import OBSERVERS
from calibration.sensitivity import LayerSensitivity, layer_sensitivities
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import ModelFile, run_all
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.host.machine import usable_cores
from cnnres_infer.pipeline.infer import Network
from cnnres_infer.verification.agreement import Gate
from export.passes import rewritten
from export.timing import median_seconds

_MIXED_CANDIDATES = 3
_LARGEST_FLOAT_SHARE = 0.8
_STATISTICS_SLICES = 32
_TIMED_SLICES = 16
_TIMED_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate and its figures.

    Attributes
    ----------
    candidate
        What was tried.
    error
        Logit error on the slices of the calibration patients.
    verdict
        On the gate's patients, in ONNX Runtime. The candidate that is kept is
        chosen by it, so its figures are slightly optimistic.
    openvino
        The same in OpenVINO, which runs the same file but rounds in other
        places; None if the candidate fails in ONNX Runtime or OpenVINO cannot
        run it here.
    speed
        How many times as fast as the float network, in ONNX Runtime on this CPU.
    """

    candidate: Candidate
    error: float
    verdict: Verdict
    openvino: Verdict | None
    speed: float

    @property
    def share_in_float(self) -> float:
        """Share of the multiply-adds that are computed in float."""
        return self.candidate.share_in_float

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "variant": self.candidate.plan.scheme.variant,
            "tried": self.candidate.name,
            "logit_error": self.error,
            "share_in_float": self.share_in_float,
            "speed_on_cpu": self.speed,
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
        Of the trials that pass the gate, the one with the smallest share in
        float; if none passes, the one with the smallest logit error.
    layers
        Sensitivity of each layer before fine-tuning, from the highest to the lowest.
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
    logit_error
        Compares with PyTorch on the calibration patients.
    judge
        Compares with PyTorch and the expert masks on the gate's patients.
    gate
        What a candidate must reach.
    tune
        Fine-tunes a candidate; None to skip that step.
    sides
        Heights and widths that images may have; empty if the network has one size.
    """

    model: onnx.ModelProto
    images: FloatArray
    logit_error: LogitError
    judge: Judge
    gate: Gate
    tune: Callable[[Candidate], Candidate] | None
    sides: tuple[int, ...] = ()

    def run(self, scheme: Scheme, report: Callable[[Trial], None]) -> SearchResult:
        """Try candidates, in order of effort.

        1. Ranges by every observer, each without and with equalisation.
        2. The best of these, with bias correction.
        3. If none has passed the gate: the candidate of the smallest error, fine-tuned.
        4. If none has passed yet: the three of the smallest errors before
           fine-tuning, in mixed precision, with more and more blocks in float
           until they pass. (Fine-tuned weights are no better in float.)

        Parameters
        ----------
        report
            Called with each trial.
        """
        trials: list[Trial] = []

        def attempt(candidate: Candidate) -> bool:
            trials.append(self._measured(candidate))
            report(trials[-1])
            return self._passes(trials[-1])

        for candidate in self._observed(scheme):
            attempt(candidate)
        attempt(self._best(trials).candidate.corrected(self._statistics_images))
        # Observers that found the same ranges have the same error, and count once.
        by_error = {trial.error: trial.candidate for trial in trials}
        calibrated = [by_error[error] for error in sorted(by_error)[:_MIXED_CANDIDATES]]
        layers = layer_sensitivities(calibrated[0], self.logit_error)
        if self.tune is not None and not any(map(self._passes, trials)):
            attempt(self.tune(calibrated[0]))
        if not any(map(self._passes, trials)):
            self._mix_precisions(calibrated, attempt)
        return SearchResult(tuple(trials), self._best(trials), tuple(layers))

    def _observed(self, scheme: Scheme) -> Iterator[Candidate]:
        plain = rewritten(self.model, scheme.passes)
        balanced = equalised(plain, self._statistics_images)
        for observer in OBSERVERS:
            for name, model in ((observer.name, plain), (f"{observer.name}, equalised", balanced)):
                yield Candidate.observed(name, model, scheme, self.images, observer, self.sides)

    def _mix_precisions(
        self, candidates: list[Candidate], attempt: Callable[[Candidate], bool]
    ) -> None:
        """Attempt each candidate with more and more in float, but no more than what has passed."""
        limit = _LARGEST_FLOAT_SHARE
        for candidate in candidates:
            for mixed in self._mixed(candidate):
                if mixed.share_in_float >= limit:
                    break
                if attempt(mixed):
                    limit = mixed.share_in_float

    def _mixed(self, candidate: Candidate) -> Iterator[Candidate]:
        """The candidate with one block in float, with two, and so on.

        The blocks that make the most error for their multiply-adds come first.
        Errors of different blocks add up by their squares.
        """
        every = blocks(candidate.model)
        errors = {
            block: candidate.in_float(x for x in every if x is not block).error(self.logit_error)
            for block in every
        }
        worst = sorted(every, key=lambda block: -(errors[block] ** 2) / block.share)
        for count in range(1, len(worst)):
            yield candidate.in_float(worst[:count])

    def _measured(self, candidate: Candidate) -> Trial:
        with candidate.ort_engine() as engine:
            network = partial(run_all, engine)
            verdict = self.judge(network)
            passes = not verdict.misses(self.gate)
            return Trial(
                candidate,
                self.logit_error(network),
                verdict,
                self._judged_in_openvino(candidate) if passes else None,
                self._speed(network),
            )

    def _judged_in_openvino(self, candidate: Candidate) -> Verdict | None:
        engine = candidate.openvino_engine()
        if engine is None:
            return None
        with engine:
            return self.judge(partial(run_all, engine))

    def _speed(self, network: Network) -> float:
        """How many times as fast as the float network, timed in turns with it."""
        few = self.images[:_TIMED_SLICES]
        cases = {
            "float": lambda: run_all(self._float_engine, few),
            "candidate": lambda: network(few),
        }
        seconds = median_seconds(cases, _TIMED_ROUNDS)
        return seconds["float"] / seconds["candidate"]

    @property
    def _statistics_images(self) -> FloatArray:
        """The slices over which channels are equalised and biases corrected."""
        return self.images[:_STATISTICS_SLICES]

    @cached_property
    def _float_engine(self) -> OrtEngine:
        """The float network, opened once for all comparisons of speed."""
        model = ModelFile("fp32", self.model.SerializeToString(), self.sides)
        return OrtEngine.open(model, Precision.FP32, usable_cores())

    def _passes(self, trial: Trial) -> bool:
        return not trial.misses(self.gate)

    def _best(self, trials: list[Trial]) -> Trial:
        """The passing trial with the smallest share in float, else that of the smallest error."""
        passing = [trial for trial in trials if self._passes(trial)]
        if passing:
            return min(passing, key=lambda trial: (trial.share_in_float, trial.error))
        return min(trials, key=lambda trial: trial.error)
