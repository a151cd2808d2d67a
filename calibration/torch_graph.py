"""A float ONNX network in PyTorch, which has derivatives."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from calibration.plan import CONVS
from export.onnx_graph import attributes_of, constants_of

Attributes: TypeAlias = dict[str, Any]


class TorchGraph(nn.Module):
    """A float ONNX network as a PyTorch module.

    Parameters
    ----------
    model
        The network, made of Conv, ConvTranspose, MatMul, Relu, MaxPool,
        BatchNormalization, Resize (nearest, by 2), Concat, Add, Sigmoid,
        Transpose, DepthToSpace (to one channel) and Slice (one pixel off each
        edge).
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.model = model
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

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to the network's output."""
        ((_, output),) = deque(self.walk(images), maxlen=1)
        return output

    def walk(self, images: Tensor) -> Iterator[tuple[onnx.NodeProto, Tensor]]:
        """Compute node by node, yielding each node with its output."""
        graph = self.model.graph
        last = {name: i for i, node in enumerate(graph.node) for name in node.input}
        values = {graph.input[0].name: images}
        for i, (node, attributes) in enumerate(zip(graph.node, self._attributes, strict=True)):
            inputs = [values[name] for name in node.input if name in values]
            weights = [self._constant(name) for name in node.input if name in self._keys]
            output = _OPERATORS[node.op_type](inputs, weights, attributes)
            yield node, output
            values[node.output[0]] = output
            for name in node.input:
                if last[name] == i:
                    values.pop(name, None)

    def kernel_gradients(self) -> Iterator[tuple[onnx.NodeProto, Tensor]]:
        """Each convolution with the gradient of its weights."""
        for node in self.model.graph.node:
            if node.op_type in CONVS:
                gradient = self.constants[self._keys[node.input[1]]].grad
                assert gradient is not None
                yield node, gradient

    def _constant(self, name: str) -> Tensor:
        """A float constant; the values of the others are known."""
        key = self._keys[name]
        if key not in self.constants:
            return torch.empty(0)
        value: Tensor = self.constants[key]
        return value


def _key(name: str) -> str:
    """A tensor's name as a key of `torch.nn.ParameterDict`, which may hold no dots."""
    return name.replace(".", "/")


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
