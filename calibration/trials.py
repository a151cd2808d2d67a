"""The search: what is tried for a variant, step by step, and how it did."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import median
from typing import Any

import onnx

from calibration.blocks import blocks
from calibration.candidate import Candidate, evened
from calibration.closeness import Closeness, Compute
from calibration.judge import Judge, Verdict
from calibration.plan import Scheme
from calibration.ranges import OBSERVERS
from calibration.sensitivity import Layer, layer_sensitivities
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import ModelFile, run_all
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.host.machine import usable_cores
from cnnres_infer.verification.agreement import Gate
from export.passes import rewritten
from export.timing import interleaved

_MOST_SPARED = 3
_LARGEST_SHARE = 0.8
_TIMED_SLICES = 16
_TIMED_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate and its figures.

    Attributes
    ----------
    error
        That of the logits near the threshold on the calibration patients' slices.
    verdict
        On the gate's patients. Whether it passes takes part in the choice, so the
        chosen one's figures are slightly optimistic.
    elsewhere
        The same in OpenVINO, where that is installed, for what ONNX Runtime passes
        with: it computes the same file, and rounds in other places.
    in_float
        Share of the multiply-adds that is left in float.
    speed
        How many times as fast as the float network in ONNX Runtime on this CPU.
    """

    candidate: Candidate
    error: float
    verdict: Verdict
    elsewhere: Verdict | None
    in_float: float
    speed: float

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "variant": self.candidate.plan.scheme.variant,
            "tried": self.candidate.name,
            "logit_error": self.error,
            "share_in_float": self.in_float,
            "speed_on_cpu": self.speed,
            **self.verdict.to_json(),
            "openvino": self.elsewhere and self.elsewhere.to_json(),
        }

    def misses(self, gate: Gate) -> tuple[str, ...]:
        """What falls short of the gate, in words; nothing if it passes."""
        there = () if self.elsewhere is None else self.elsewhere.misses(gate)
        return (*self.verdict.misses(gate), *(f"in OpenVINO, {text}" for text in there))


@dataclass(frozen=True, eq=False)
class Found:
    """What came of a search.

    Attributes
    ----------
    trials
        In the order in which they were made.
    best
        Of those that pass the gate the one with least in float, so that its
        patients choose as well; the one with the smallest error if none does.
    layers
        The sensitivity of each layer before fine-tuning, the worst first.
    """

    trials: tuple[Trial, ...]
    best: Trial
    layers: tuple[Layer, ...]


@dataclass(frozen=True, eq=False)
class Search:
    """What a search needs.

    Attributes
    ----------
    model
        The float network.
    images
        Calibration slices (N, C, H, W).
    closeness, judge
        Compare with PyTorch on the calibration patients and on the gate's.
    gate
        What is to be reached.
    tune
        Fine-tunes a candidate; None to leave that step out.
    """

    model: onnx.ModelProto
    images: FloatArray
    closeness: Closeness
    judge: Judge
    gate: Gate
    tune: Callable[[Candidate], Candidate] | None

    def run(self, scheme: Scheme, report: Callable[[Trial], None]) -> Found:
        """Try one thing after another.

        Ranges by every observer, channels as they are and equalised; the closest
        with corrected biases. Unless one passes the gate, the closest fine-tuned;
        and unless that does, the closest three, not fine-tuned, with one block
        after another in float until they pass. (What was fine-tuned has other
        weights, which are no nearer in float.)

        Parameters
        ----------
        report
            Called with each trial.
        """
        trials: list[Trial] = []

        def attempt(candidate: Candidate) -> None:
            trials.append(self._tried(candidate))
            report(trials[-1])

        for candidate in self._observed(scheme):
            attempt(candidate)
        attempt(self._best(trials).candidate.corrected(self.images))
        # Observers that found the same ranges are one.
        by_error = {trial.error: trial.candidate for trial in trials}
        calibrated = [by_error[error] for error in sorted(by_error)[:_MOST_SPARED]]
        layers = layer_sensitivities(calibrated[0], self.closeness)
        if self.tune is not None and not any(map(self._passes, trials)):
            attempt(self.tune(calibrated[0]))
        if any(map(self._passes, trials)):
            return Found(tuple(trials), self._best(trials), tuple(layers))
        least = _LARGEST_SHARE
        for candidate in calibrated:
            for spared in self._spared(candidate):
                if spared.share_in_float >= least:
                    break
                attempt(spared)
                if self._passes(trials[-1]):
                    least = spared.share_in_float
        return Found(tuple(trials), self._best(trials), tuple(layers))

    def _tried(self, candidate: Candidate) -> Trial:
        with candidate.engine() as engine:
            compute = partial(run_all, engine)
            verdict = self.judge(compute)
            return Trial(
                candidate,
                self.closeness(compute),
                verdict,
                None if verdict.misses(self.gate) else self._elsewhere(candidate),
                candidate.share_in_float,
                self._speed(compute),
            )

    def _elsewhere(self, candidate: Candidate) -> Verdict | None:
        engine = candidate.elsewhere()
        if engine is None:
            return None
        with engine:
            return self.judge(partial(run_all, engine))

    def _observed(self, scheme: Scheme) -> Iterator[Candidate]:
        plain = rewritten(self.model, scheme.passes)
        even = evened(plain, self.images)
        for observer in OBSERVERS:
            for name, model in ((observer.name, plain), (f"{observer.name}, equalised", even)):
                yield Candidate.observed(name, model, scheme, self.images, observer)

    def _spared(self, candidate: Candidate) -> Iterator[Candidate]:
        """The candidate with one more block in float each time.

        First goes what, alone in INT8, makes most error for its multiply-adds.
        Errors of different blocks add up by their squares.
        """
        every = blocks(candidate.model)
        errors = {
            block: candidate.in_float(x for x in every if x is not block).error(self.closeness)
            for block in every
        }
        worst = sorted(every, key=lambda block: -(errors[block] ** 2) / block.share)
        for count in range(1, len(worst)):
            yield candidate.in_float(worst[:count])

    def _speed(self, compute: Compute) -> float:
        """Speed relative to the float network's, both timed in turns."""
        few = self.images[:_TIMED_SLICES]
        cases = {
            "float": lambda: run_all(self._float, few),
            "candidate": lambda: compute(few),
        }
        seconds = interleaved(cases, _TIMED_ROUNDS)
        return median(seconds["float"]) / median(seconds["candidate"])

    @cached_property
    def _float(self) -> OrtEngine:
        """The float network, opened once for all comparisons of speed."""
        return OrtEngine.open(
            ModelFile("fp32", self.model.SerializeToString()), Precision.FP32, usable_cores()
        )

    def _passes(self, trial: Trial) -> bool:
        return not trial.misses(self.gate)

    def _best(self, trials: list[Trial]) -> Trial:
        """Of those that pass the one with least in float, else the closest."""
        passing = [trial for trial in trials if self._passes(trial)]
        if passing:
            return min(passing, key=lambda trial: (trial.in_float, trial.error))
        return min(trials, key=lambda trial: trial.error)
