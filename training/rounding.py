"""Rounding to 8 bits while training, so that the network learns to bear it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.cnnres import CNNRes, ResidualBlock

_LEVELS = 255
_LARGEST = 127


@contextmanager
def eight_bits(network: CNNRes) -> Iterator[None]:
    """Let convolutions take 8-bit images and weights, and shortcuts 8-bit images.

    Images are rounded to 256 levels between their extremes in the batch, weights
    to 255 between those of each output channel. The head stays as it is.
    Gradients pass as if nothing were rounded.
    """
    rounding: dict[type[nn.Module], object] = {
        nn.Conv2d: _convolved,
        ResidualBlock: _with_shortcut,
    }
    changed = [m for m in network.modules() if type(m) in rounding and m is not network.head]
    for module in changed:
        module.forward = partial(rounding[type(module)], module)  # type: ignore
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def rounded_images(x: Tensor) -> Tensor:
    """Round to 256 levels between the smallest value, at most 0, and the largest."""
    with torch.no_grad():
        low, high = x.amin().clamp(max=0).float(), x.amax().float()
        step = ((high - low) / _LEVELS).clamp(min=1e-12)
        change = (torch.round(x / step) * step).to(x.dtype) - x
    return x + change


def rounded_weights(weight: Tensor) -> Tensor:
    """Round (O, I, H, W) to multiples of each output channel's largest magnitude / 127."""
    with torch.no_grad():
        step = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12) / _LARGEST
        change = torch.round(weight / step) * step - weight
    return weight + change


def _convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    weight = rounded_weights(conv.weight)
    return functional.conv2d(rounded_images(x), weight, conv.bias, conv.stride, conv.padding)


def _with_shortcut(block: ResidualBlock, x: Tensor) -> Tensor:
    return ResidualBlock.forward(block, rounded_images(x))
