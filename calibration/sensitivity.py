"""Which layers lose most when they compute in INT8."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from calibration.candidate import Candidate, layer_name
from calibration.judge import Judge
from cnnres_infer.engines import run_all


@dataclass(frozen=True)
class Layer:
    """A convolution's part in the loss.

    Attributes
    ----------
    conv
        Its output in the graph.
    name
        What it is called in the network.
    alone
        Mean Dice with PyTorch when it alone computes in INT8.
    spared
        The same when all but it do.
    """

    conv: str
    name: str
    alone: float
    spared: float

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return asdict(self)


def layer_sensitivities(candidate: Candidate, judge: Judge) -> list[Layer]:
    """Measure every layer of a candidate, the one to blame most first.

    Ranked by how much agreement returns when it is spared, then by how much
    it loses alone.
    """

    def agreement(in_float: frozenset[str]) -> float:
        with candidate.in_float(in_float).engine() as engine:
            return judge(partial(run_all, engine)).agreement.mean

    convs = candidate.plan.convs
    layers = [
        Layer(
            conv,
            layer_name(candidate.model, conv),
            agreement(convs - {conv}),
            agreement(frozenset({conv})),
        )
        for conv in sorted(convs)
    ]
    return sorted(layers, key=lambda layer: (-layer.spared, layer.alone))
