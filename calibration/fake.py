"""A planned network in PyTorch: what the INT8 file computes, with gradients."""

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from calibration.plan import Codes, Plan
from calibration.qdq import LARGEST_WEIGHT, output_axis

Attributes: TypeAlias = dict[str, Any]


class Graph(nn.Module):
    """A float ONNX network in PyTorch, by way of a plan quantised or not.

    Rounding passes gradients as if it were not there. A scale is learned by its
    logarithm, so that a step changes it in proportion to itself; gradients of
    what is clipped and of the rounding reach it as in LSQ.

    Parameters
    ----------
    model
        Its nodes: Conv, ConvTranspose, MatMul, Relu, MaxPool, BatchNormalization, Resize
        (nearest, by 2), Concat, Add, Sigmoid, Transpose, DepthToSpace (of one channel) and
        Slice (a pixel off each edge).
    plan
        What to quantise; None for nothing.

    References
    ----------
    S. K. Esser et al., "Learned step size quantization", ICLR 2020.
    """

    def __init__(self, model: onnx.ModelProto, plan: Plan | None = None) -> None:
        super().__init__()
        self.model, self.plan = model, plan
        self._attributes = [
            {a.name: helper.get_attribute_value(a) for a in n.attribute} for n in model.graph.node
        ]
        constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._keys = {name: name.replace(".", "/") for name in constants}
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
                name.replace(".", "/"): nn.Parameter(torch.tensor(codes.scale).log())
                for name, codes in tensors.items()
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to the network's output."""
        ((_, output),) = deque(self.walk(images), maxlen=1)
        return output

    def walk(self, images: Tensor) -> Generator[tuple[onnx.NodeProto, Tensor], Tensor | None, None]:
        """Compute node by node; yield each with its output as the next ones take it.

        What is sent back takes the output's place.
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
        """The float network with the weights as they are now."""
        result = onnx.ModelProto()
        result.CopyFrom(self.model)
        for tensor in result.graph.initializer:
            key = self._keys[tensor.name]
            if key in self.constants:
                value = self.constants[key].detach().cpu().numpy()
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        return result

    def learned_plan(self) -> Plan:
        """The plan with the scales as they are now."""
        assert self.plan is not None
        return self.plan.with_codes(
            {
                name: Codes(self.log_scales[name.replace(".", "/")].exp().item(), codes.zero)
                for name, codes in self.plan.tensors.items()
            }
        )

    def bias(self, node: onnx.NodeProto) -> nn.Parameter:
        """Bias of a convolution."""
        bias: nn.Parameter = self.constants[self._keys[node.input[2]]]
        return bias

    def _constant(self, node: onnx.NodeProto, name: str) -> Tensor:
        key = self._keys[name]
        if key not in self.constants:
            return torch.empty(0)
        value: Tensor = self.constants[key]
        quantise = self.plan is not None and node.output[0] in self.plan.convs
        rounded = quantise and name == node.input[1]
        return _rounded_weights(value, output_axis(node)) if rounded else value

    def _rounded(self, tensor: str, value: Tensor) -> Tensor:
        if self.plan is None or self.plan.codes(tensor) is None:
            return value
        root = self.plan.sharing.get(tensor, tensor)
        if root != tensor:
            return value
        scheme, zero = self.plan.scheme, self.plan.tensors[root].zero
        scale = self.log_scales[root.replace(".", "/")].exp()
        codes = (_round(value / scale)).clamp(scheme.lowest - zero, scheme.highest - zero)
        rounded: Tensor = codes * scale
        return rounded


def _round(value: Tensor) -> Tensor:
    return value + (value.round() - value).detach()


def _rounded_weights(weight: Tensor, axis: int) -> Tensor:
    others = [i for i in range(weight.ndim) if i != axis]
    largest = weight.detach().abs().amax(dim=others, keepdim=True)
    steps = largest.clamp(min=1e-8) / LARGEST_WEIGHT
    return _round(weight / steps) * steps


def _conv(inputs: list[Tensor], weights: list[Tensor], attributes: Attributes) -> Tensor:
    padding = attributes.get("pads", [0, 0])[:2]
    return functional.conv2d(
        inputs[0], weights[0], weights[1], padding=padding, groups=attributes.get("group", 1)
    )


def _transposed_conv(inputs: list[Tensor], weights: list[Tensor], attributes: Attributes) -> Tensor:
    bias = weights[1] if len(weights) > 1 else None
    stride, padding = attributes["strides"], attributes["pads"][:2]
    return functional.conv_transpose2d(inputs[0], weights[0], bias, stride, padding)


def _batch_norm(inputs: list[Tensor], weights: list[Tensor], attributes: Attributes) -> Tensor:
    weight, bias, mean, variance = weights
    statistics = (mean.detach(), variance.detach())
    return functional.batch_norm(inputs[0], *statistics, weight, bias, eps=attributes["epsilon"])


_OPERATORS: dict[str, Callable[[list[Tensor], list[Tensor], Attributes], Tensor]] = {
    "Conv": _conv,
    "ConvTranspose": _transposed_conv,
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
