"""Rounding to 8 bits while training, so that the network learns to bear it."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.cnnres import CNNRes, ResidualBlock

_LEVELS = 255
_LARGEST = 127
_SMALLEST = 1e-12


class Scheme(Enum):
    """How a variant rounds.

    Attributes
    ----------
    CPU
        Images to 256 levels between their extremes, weights to 255 between those
        of each output channel: ``int8-cpu``.
    TENSORRT
        Both to 255 levels between minus and plus their largest magnitude:
        ``int8-trt``.
    """

    CPU = "cpu"
    TENSORRT = "tensorrt"


@contextmanager
def eight_bits(network: CNNRes, scheme: Scheme = Scheme.CPU) -> Iterator[None]:
    """Let convolutions take 8-bit images and weights, and shortcuts 8-bit images.

    Extremes are those of the batch. The head stays as it is. Gradients pass as
    if nothing were rounded.
    """
    rounding: dict[type[nn.Module], object] = {
        nn.Conv2d: _convolved,
        ResidualBlock: _with_shortcut,
    }
    changed = [m for m in network.modules() if type(m) in rounding and m is not network.head]
    for module in changed:
        module.forward = partial(rounding[type(module)], module, scheme)  # type: ignore
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def rounded_images(x: Tensor, scheme: Scheme = Scheme.CPU) -> Tensor:
    """Round to 8 bits between the smallest value, at most 0, and the largest."""
    with torch.no_grad():
        if scheme is Scheme.CPU:
            low, high = x.amin().clamp(max=0).float(), x.amax().float()
            step = (high - low) / _LEVELS
        else:
            step = x.abs().amax().float() / _LARGEST
        step = step.clamp(min=_SMALLEST)
        change = (torch.round(x / step) * step).to(x.dtype) - x
    return x + change


def rounded_weights(weight: Tensor, scheme: Scheme = Scheme.CPU) -> Tensor:
    """Round (O, I, H, W) to multiples of the largest magnitude / 127, of each channel or of all."""
    with torch.no_grad():
        axes = (1, 2, 3) if scheme is Scheme.CPU else (0, 1, 2, 3)
        step = weight.abs().amax(dim=axes, keepdim=True).clamp(min=_SMALLEST) / _LARGEST
        change = torch.round(weight / step) * step - weight
    return weight + change


def _convolved(conv: nn.Conv2d, scheme: Scheme, x: Tensor) -> Tensor:
    weight = rounded_weights(conv.weight, scheme)
    images = rounded_images(x, scheme)
    return functional.conv2d(images, weight, conv.bias, conv.stride, conv.padding)


def _with_shortcut(block: ResidualBlock, scheme: Scheme, x: Tensor) -> Tensor:
    return ResidualBlock.forward(block, rounded_images(x, scheme))
