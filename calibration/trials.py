"""The search: what is tried for a variant, step by step, and how it did."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import median
from typing import Any

import onnx

from calibration.candidate import Candidate, evened, prepared
from calibration.judge import Compute, Judge, Verdict
from calibration.plan import Scheme
from calibration.ranges import OBSERVERS
from calibration.sensitivity import Layer, layer_sensitivities
from cnnres_infer.engines import run_all
from cnnres_infer.engines.ort import OrtEngine
from cnnres_infer.machine import usable_cores
from cnnres_infer.verify import Gate
from cnnres_infer.volume import FloatArray
from export.timing import interleaved

_MOST_IN_FLOAT = 3
_TIMED_SLICES = 16
_TIMED_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate and its figures.

    Attributes
    ----------
    score
        Mean Dice with PyTorch over the calibration patients' slices: what
        chooses between candidates, among those that pass the gate, if any do.
    verdict
        The same and more on the gate's patients. Whether it passes takes part in
        the choice, so the chosen one's figures are slightly optimistic.
    speed
        How many times as fast as the float network in ONNX Runtime on this CPU.
    """

    candidate: Candidate
    score: float
    verdict: Verdict
    speed: float

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "variant": self.candidate.plan.scheme.variant,
            "tried": self.candidate.name,
            "score": self.score,
            "speed_on_cpu": self.speed,
            **self.verdict.to_json(),
        }


@dataclass(frozen=True, eq=False)
class Found:
    """What came of a search.

    Attributes
    ----------
    trials
        In the order in which they were made.
    best
        The one with the highest score, among those that pass the gate, if any do:
        so far the gate's patients choose as well.
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
    chooser, judge
        Compare with PyTorch on the calibration patients and on the gate's.
    gate
        What is to be reached.
    tune
        Fine-tunes a candidate; None to leave that step out.
    """

    model: onnx.ModelProto
    images: FloatArray
    chooser: Judge
    judge: Judge
    gate: Gate
    tune: Callable[[Candidate], Candidate] | None

    def run(self, scheme: Scheme, report: Callable[[Trial], None]) -> Found:
        """Try one thing after another, each on top of the best until then.

        Ranges by every observer, channels as they are and equalised; corrected
        biases; fine-tuning; and, if nothing passes the gate, the most
        sensitive layers in float, one more at a time.

        Parameters
        ----------
        report
            Called with each trial.
        """
        trials: list[Trial] = []

        def attempt(candidate: Candidate) -> None:
            with candidate.engine() as engine:
                compute = partial(run_all, engine)
                score = self.chooser(compute).agreement.mean
                trials.append(Trial(candidate, score, self.judge(compute), self._speed(compute)))
            report(trials[-1])

        for candidate in self._observed(scheme):
            attempt(candidate)
        attempt(self._best(trials).candidate.corrected(self.images))
        calibrated = self._best(trials).candidate
        layers = layer_sensitivities(calibrated, self.chooser)
        if self.tune is not None:
            attempt(self.tune(calibrated))
        exact = self._best(trials).candidate
        for count in range(1, _MOST_IN_FLOAT + 1):
            if self._passes(self._best(trials)):
                break
            attempt(exact.in_float(frozenset(layer.conv for layer in layers[:count])))
        return Found(tuple(trials), self._best(trials), tuple(layers))

    def _observed(self, scheme: Scheme) -> Iterator[Candidate]:
        plain = prepared(self.model, scheme)
        even = evened(plain, self.images)
        for observer in OBSERVERS:
            for name, model in ((observer.name, plain), (f"{observer.name}, equalised", even)):
                yield Candidate.observed(name, model, scheme, self.images, observer)

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
        return OrtEngine.open(self.model.SerializeToString(), "fp32", usable_cores())

    def _passes(self, trial: Trial) -> bool:
        return not trial.verdict.misses(self.gate)

    def _best(self, trials: list[Trial]) -> Trial:
        return max(trials, key=lambda trial: (self._passes(trial), trial.score))
