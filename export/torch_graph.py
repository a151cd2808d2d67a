"""An ONNX network in PyTorch, which has derivatives and rounds as a GPU does."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, shape_inference
from torch import Tensor, nn
from torch.nn import functional

from export.onnx_graph import CONVS, attributes_of, constants_of

Attributes: TypeAlias = dict[str, Any]
# Types of the constants that nodes compute with; others hold shapes.
_STORED = (np.float32, np.float16, np.int8, np.uint8, np.int32)


class TorchGraph(nn.Module):
    """An ONNX network as a PyTorch module that computes in float32.

    What the network has in float16 is rounded to that after each node. So this is what
    a GPU computes that adds up in float32, except that a GPU may round less where it
    fuses nodes. What is dequantised is not rounded: convolutions in 8 bits take the
    codes, and other nodes dequantise in float32 as they read.

    Parameters
    ----------
    model
        The network, made of Conv, ConvTranspose, MatMul, Relu, MaxPool,
        BatchNormalization, Resize (nearest, by 2), Concat, Add, Mul, Sigmoid,
        Transpose, DepthToSpace (to one channel), Slice (one pixel off each
        edge), Cast, and QuantizeLinear and DequantizeLinear (int8, uint8, and
        int32 for biases).
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.model = model
        self.in_channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        self._in_half = _half_tensors(model)
        constants = constants_of(model)
        self._attributes = [
            attributes_of(node) | _codes(node, constants) for node in model.graph.node
        ]
        self._keys = {name: _key(name) for name in constants}
        self.constants = nn.ParameterDict(
            {
                self._keys[name]: nn.Parameter(torch.from_numpy(value.astype(np.float32)))
                for name, value in constants.items()
                if value.dtype in _STORED
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
            operands = [
                values[name] if name in values else self._constant(name)
                for name in node.input
                if name
            ]
            output = _OPERATORS[node.op_type](operands, attributes)
            if node.output[0] in self._in_half:
                output = output.half().to(output.dtype)
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
        """A constant; the values of those that are not stored are known."""
        key = self._keys[name]
        if key not in self.constants:
            return torch.empty(0)
        value: Tensor = self.constants[key]
        return value


def _key(name: str) -> str:
    """A tensor's name as a key of `torch.nn.ParameterDict`, which may hold no dots."""
    return name.replace(".", "/")


def _codes(node: onnx.NodeProto, constants: dict[str, NDArray[Any]]) -> Attributes:
    """The smallest and the largest code that a node quantises to, if it does."""
    if node.op_type != "QuantizeLinear":
        return {}
    kind = np.iinfo(constants[node.input[2]].dtype)
    return {"codes": (kind.min, kind.max)}


def _half_tensors(model: onnx.ModelProto) -> set[str]:
    """The tensors to round to float16."""
    inferred = shape_inference.infer_shapes(model).graph
    half = {
        value.name
        for value in inferred.value_info
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    dequantised = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return half - dequantised


def _conv(operands: list[Tensor], attributes: Attributes) -> Tensor:
    values, weight, bias = _with_bias(operands)
    padding, groups = attributes.get("pads", [0, 0])[:2], attributes.get("group", 1)
    return functional.conv2d(values, weight, bias, padding=padding, groups=groups)


def _transposed_conv(operands: list[Tensor], attributes: Attributes) -> Tensor:
    values, weight, bias = _with_bias(operands)
    stride, padding = attributes["strides"], attributes["pads"][:2]
    return functional.conv_transpose2d(values, weight, bias, stride, padding)


def _with_bias(operands: list[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
    values, weight = operands[:2]
    return values, weight, operands[2] if len(operands) > 2 else None


def _batch_norm(operands: list[Tensor], attributes: Attributes) -> Tensor:
    values, weight, bias, mean, variance = operands
    statistics = (mean.detach(), variance.detach())
    return functional.batch_norm(values, *statistics, weight, bias, eps=attributes["epsilon"])


def _quantised(operands: list[Tensor], attributes: Attributes) -> Tensor:
    values, scale, zero = operands
    return ((values / scale).round() + zero).clamp(*attributes["codes"])


def _dequantised(operands: list[Tensor], attributes: Attributes) -> Tensor:
    codes, scale, zero = operands
    if not scale.ndim:
        return (codes - zero) * scale
    shape = (-1, *[1] * (codes.ndim - 1 - attributes["axis"]))
    return (codes - zero.reshape(shape)) * scale.reshape(shape)


_OPERATORS: dict[str, Callable[[list[Tensor], Attributes], Tensor]] = {
    "Conv": _conv,
    "ConvTranspose": _transposed_conv,
    "BatchNormalization": _batch_norm,
    "Relu": lambda operands, _: functional.relu(operands[0]),
    "MaxPool": lambda operands, _: functional.max_pool2d(operands[0], 2),
    "Resize": lambda operands, _: functional.interpolate(operands[0], scale_factor=2.0),
    "Concat": lambda operands, _: torch.cat(operands, dim=1),
    "Add": lambda operands, _: operands[0] + operands[1],
    "Mul": lambda operands, _: operands[0] * operands[1],
    "MatMul": lambda operands, _: operands[0] @ operands[1],
    "Transpose": lambda operands, attributes: operands[0].permute(attributes["perm"]),
    "DepthToSpace": lambda operands, _: functional.pixel_shuffle(operands[0], 2),
    "Slice": lambda operands, _: operands[0][..., 1:-1, 1:-1],
    "Sigmoid": lambda operands, _: torch.sigmoid(operands[0]),
    "Cast": lambda operands, _: operands[0],
    "QuantizeLinear": _quantised,
    "DequantizeLinear": _dequantised,
}
