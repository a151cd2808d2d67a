"""A model of the error that 8 bits make in a network's logits.

Rounding to multiples of a step makes an error of a twelfth of the step's square on
average. What that does to the logits near the threshold follows from their derivatives,
so one look at the float network tells the error of every plan and scaling of channels.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
import torch
from torch import Tensor

from calibration.channels import Channels
from calibration.logit_error import NEAR
from calibration.plan import LARGEST_WEIGHT, Plan, Scheme, WeightScales, make_plan
from cnnres_infer.core.arrays import FloatArray
from export.onnx_graph import CONVS, constants_of
from export.torch_graph import TorchGraph

_ROUNDING = 1 / 12


@dataclass(frozen=True, eq=False)
class Statistics:
    """What images tell of a network's tensors and weights.

    Attributes
    ----------
    low, high
        Smallest and largest value of each channel, by tensor.
    activations
        Squared derivatives of a logit with respect to the values of a channel, summed
        over those that are not zero (zero is never rounded), by tensor.
    weights
        Squared derivatives of a logit with respect to the weights of a convolution, summed
        over each kernel (outputs, inputs), by the convolution's output.
    """

    low: dict[str, Tensor] = field(default_factory=dict)
    high: dict[str, Tensor] = field(default_factory=dict)
    activations: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, channels: Channels, batches: Iterable[FloatArray], threshold: float, seed: int
    ) -> "Statistics":
        """Compute batches of images (N, C, H, W) and the derivatives of logits near the threshold.

        The sum of the squared derivatives of many logits is estimated without bias by the
        square of the derivative of their sum with random signs.
        """
        made, graph, pixels = cls(), TorchGraph(channels.model), 0.0
        signs = torch.Generator().manual_seed(seed)
        edge = float(np.log(threshold / (1 - threshold)))
        for images in batches:
            tensors = {channels.model.graph.input[0].name: torch.tensor(images).requires_grad_()}
            for node, output in graph.walk(*tensors.values()):
                output.retain_grad()
                tensors[node.output[0]] = output
            logits = torch.logit(tensors[channels.model.graph.output[0].name], eps=1e-6)
            near = ((logits - edge).abs() < NEAR).float()
            sign = torch.randint(0, 2, logits.shape, generator=signs) * 2 - 1
            graph.zero_grad()
            (logits * sign * near).sum().backward()
            pixels += near.sum().item()
            for name in channels.groups:
                made._add(name, tensors[name], channels.within_channel(name))
            made._add_weights(graph)
        for each in (*made.activations.values(), *made.weights.values()):
            each /= max(pixels, 1.0)
        return made

    def _add(self, name: str, tensor: Tensor, within: tuple[int, ...]) -> None:
        value, gradient = tensor.detach(), tensor.grad
        low, high = value.amin(within), value.amax(within)
        self.low[name] = torch.minimum(self.low.get(name, low), low)
        self.high[name] = torch.maximum(self.high.get(name, high), high)
        if gradient is not None:
            squares = (gradient.square() * (value != 0)).sum(within)
            self.activations[name] = self.activations.get(name, torch.tensor(0.0)) + squares

    def _add_weights(self, graph: TorchGraph) -> None:
        for node, gradient in graph.kernel_gradients():
            name = node.output[0]
            squares = _kernels(gradient).square().sum((2, 3))
            self.weights[name] = self.weights.get(name, torch.tensor(0.0)) + squares


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """Predicts the mean square error of the logits near the threshold.

    Attributes
    ----------
    channels
        Those of the float network.
    statistics
        Of the same network.
    """

    channels: Channels
    statistics: Statistics

    def error(self, plan: Plan, factors: Tensor) -> Tensor:
        """The error of a plan if the channels of each group are divided by its factor (groups,)."""
        error = torch.zeros(())
        for name in sorted(plan.rounded):
            error = error + self._of_tensor(name, plan, factors)
        for conv in self._convs(plan):
            error = error + self._of_weights(conv, plan, factors)
        return error * _ROUNDING

    def plan(self, factors: Tensor, scheme: Scheme, in_float: frozenset[str] = frozenset()) -> Plan:
        """The plan for channels divided by their factors; see `make_plan`."""
        return make_plan(self.channels.model, self.ranges(factors), scheme, in_float)

    def ranges(self, factors: Tensor) -> dict[str, tuple[float, float]]:
        """Smallest and largest value of each tensor if channels are divided by their factors."""
        return {
            name: (low.item(), high.item())
            for name in self.channels.groups
            for low, high in [self._range(name, factors)]
        }

    def _range(self, tensor: str, factors: Tensor) -> tuple[Tensor, Tensor]:
        own = factors[self.channels.groups[tensor]]
        statistics = self.statistics
        return (statistics.low[tensor] / own).amin(), (statistics.high[tensor] / own).amax()

    def _of_tensor(self, tensor: str, plan: Plan, factors: Tensor) -> Tensor:
        low, high = self._range(plan.sharing.get(tensor, tensor), factors)
        low, high, scheme = low.clamp(max=0), high.clamp(min=0), plan.scheme
        step = (torch.maximum(high, -low) if scheme.symmetric else high - low) / scheme.qmax
        own = factors[self.channels.groups[tensor]]
        return step.square() * (own.square() * self.statistics.activations[tensor]).sum()

    def _of_weights(self, conv: onnx.NodeProto, plan: Plan, factors: Tensor) -> Tensor:
        scaling = self.channels.scaling(conv, factors)
        largest = (self._largest_weights[conv.output[0]] * scaling).amax(1, keepdim=True)
        if plan.scheme.weight_scales is WeightScales.TENSOR:
            largest = largest.amax()
        steps = largest / LARGEST_WEIGHT / scaling
        return (steps.square() * self.statistics.weights[conv.output[0]]).sum()

    def _convs(self, plan: Plan) -> list[onnx.NodeProto]:
        return [n for n in self.channels.model.graph.node if n.output[0] in plan.convs]

    @cached_property
    def _largest_weights(self) -> dict[str, Tensor]:
        constants = constants_of(self.channels.model)
        return {
            node.output[0]: _kernels(torch.tensor(constants[node.input[1]])).abs().amax((2, 3))
            for node in self.channels.model.graph.node
            if node.op_type in CONVS
        }


def _kernels(weights: Tensor) -> Tensor:
    """Weights of a convolution, or of a matrix product (inputs, outputs), as (O, I, H, W)."""
    return weights if weights.ndim == 4 else weights.T[..., None, None]
