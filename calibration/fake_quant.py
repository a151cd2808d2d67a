"""Fake quantisation: what an INT8 file computes, simulated in PyTorch with gradients."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from calibration.plan import CONVS, LARGEST_WEIGHT, Plan, QParams, within_output
from export.onnx_graph import attributes_of, constants_of, with_constants

Attributes: TypeAlias = dict[str, Any]


class TorchGraph(nn.Module):
    """A float ONNX network as a PyTorch module, fake-quantised if it is given a plan.

    Gradients pass through rounding unchanged (straight-through estimator). Scales
    are learned as logarithms, so that a step changes them in proportion; the
    gradients of rounding and clipping reach them as in LSQ.

    Parameters
    ----------
    model
        The float network, made of Conv, MatMul, Relu, MaxPool, BatchNormalization,
        Resize (nearest, by 2), Concat, Add, Sigmoid, Transpose, DepthToSpace (to
        one channel) and Slice (one pixel off each edge).
    plan
        What to quantise; None for nothing.

    References
    ----------
    S. K. Esser et al., "Learned step size quantization", ICLR 2020.
    """

    def __init__(self, model: onnx.ModelProto, plan: Plan | None = None) -> None:
        super().__init__()
        self.model, self.plan = model, plan
        self._attributes = [attributes_of(node) for node in model.graph.node]
        constants = constants_of(model)
        self._keys = {name: _key(name) for name in constants}
        self.constants = nn.ParameterDict(
            {
                self._keys[name]: nn.Parameter(torch.from_numpy(value.copy()))
                for name, value in constants.items()
                if value.dtype == np.float32
            }
        )
        tensors = {} if plan is None else plan.tensors
        self.log_scales = nn.ParameterDict(
            {
                _key(name): nn.Parameter(torch.tensor(qparams.scale).log())
                for name, qparams in tensors.items()
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to the network's output."""
        ((_, output),) = deque(self.walk(images), maxlen=1)
        return output

    def walk(self, images: Tensor) -> Generator[tuple[onnx.NodeProto, Tensor], Tensor | None, None]:
        """Compute node by node, yielding each node with its output before quantisation.

        A tensor sent back to the generator replaces that output.
        """
        graph = self.model.graph
        last = {name: i for i, node in enumerate(graph.node) for name in node.input}
        values = {graph.input[0].name: self._rounded(graph.input[0].name, images)}
        for i, (node, attributes) in enumerate(zip(graph.node, self._attributes, strict=True)):
            inputs = [values[name] for name in node.input if name in values]
            weights = [self._constant(node, name) for name in node.input if name in self._keys]
            output = _OPERATORS[node.op_type](inputs, weights, attributes)
            instead = yield node, output
            output = output if instead is None else instead
            values[node.output[0]] = self._rounded(node.output[0], output)
            for name in node.input:
                if last[name] == i:
                    values.pop(name, None)

    def learned_model(self) -> onnx.ModelProto:
        """The float network with its present weights."""
        learned = {
            name: self.constants[key].detach().cpu().numpy()
            for name, key in self._keys.items()
            if key in self.constants
        }
        return with_constants(self.model, learned)

    def learned_plan(self) -> Plan:
        """The plan with its present scales."""
        assert self.plan is not None
        return self.plan.with_qparams(
            {
                name: QParams(self.log_scales[_key(name)].exp().item(), qparams.zero_point)
                for name, qparams in self.plan.tensors.items()
            }
        )

    def bias(self, node: onnx.NodeProto) -> nn.Parameter:
        """The bias of a convolution that has one."""
        bias: nn.Parameter = self.constants[self._keys[node.input[2]]]
        return bias

    def kernel_gradients(self) -> Iterator[tuple[onnx.NodeProto, Tensor]]:
        """Each convolution with the gradient of its weights."""
        for node in self.model.graph.node:
            if node.op_type in CONVS:
                gradient = self.constants[self._keys[node.input[1]]].grad
                assert gradient is not None
                yield node, gradient

    def _constant(self, node: onnx.NodeProto, name: str) -> Tensor:
        key = self._keys[name]
        if key not in self.constants:
            return torch.empty(0)
        value: Tensor = self.constants[key]
        quantise = self.plan is not None and node.output[0] in self.plan.convs
        rounded = quantise and name == node.input[1]
        return _rounded_weights(value, within_output(node)) if rounded else value

    def _rounded(self, tensor: str, value: Tensor) -> Tensor:
        """Round an activation; one that shares another's parameters is rounded already."""
        if self.plan is None or tensor not in self.plan.tensors:
            return value
        scheme, zero_point = self.plan.scheme, self.plan.tensors[tensor].zero_point
        scale = self.log_scales[_key(tensor)].exp()
        codes = _round(value / scale).clamp(scheme.qmin - zero_point, scheme.qmax - zero_point)
        rounded: Tensor = codes * scale
        return rounded


def _key(name: str) -> str:
    """A tensor's name as a key of `torch.nn.ParameterDict`, which may hold no dots."""
    return name.replace(".", "/")


def _round(value: Tensor) -> Tensor:
    """Round; gradients pass unchanged."""
    return value + (value.round() - value).detach()


def _rounded_weights(weight: Tensor, within: tuple[int, ...]) -> Tensor:
    largest = weight.detach().abs().amax(dim=within, keepdim=True)
    scales = largest.clamp(min=1e-8) / LARGEST_WEIGHT
    return _round(weight / scales) * scales


def _conv(inputs: list[Tensor], weights: list[Tensor], attributes: Attributes) -> Tensor:
    padding = attributes.get("pads", [0, 0])[:2]
    return functional.conv2d(
        inputs[0], weights[0], weights[1], padding=padding, groups=attributes.get("group", 1)
    )


def _batch_norm(inputs: list[Tensor], weights: list[Tensor], attributes: Attributes) -> Tensor:
    weight, bias, mean, variance = weights
    statistics = (mean.detach(), variance.detach())
    return functional.batch_norm(inputs[0], *statistics, weight, bias, eps=attributes["epsilon"])


_OPERATORS: dict[str, Callable[[list[Tensor], list[Tensor], Attributes], Tensor]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "Relu": lambda inputs, *_: functional.relu(inputs[0]),
    "MaxPool": lambda inputs, *_: functional.max_pool2d(inputs[0], 2),
    "Resize": lambda inputs, *_: functional.interpolate(inputs[0], scale_factor=2.0),
    "Concat": lambda inputs, *_: torch.cat(inputs, dim=1),
    "Add": lambda inputs, weights, _: sum(weights, start=sum(inputs[1:], start=inputs[0])),
    "MatMul": lambda inputs, weights, _: inputs[0] @ weights[0],
    "Transpose": lambda inputs, _, attributes: inputs[0].permute(attributes["perm"]),
    "DepthToSpace": lambda inputs, *_: functional.pixel_shuffle(inputs[0], 2),
    "Slice": lambda inputs, *_: inputs[0][..., 1:-1, 1:-1],
    "Sigmoid": lambda inputs, *_: torch.sigmoid(inputs[0]),
}
