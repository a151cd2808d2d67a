"""Networks whose masks of mirrored images are the mirrored masks, by construction.

Mirroring an image left to right must do no more to a layer than mirror its images and
exchange channels in pairs. Zero padding, pooling and upsampling of even sizes do so by
themselves; a convolution does where its kernel for the partners of two channels is
theirs, mirrored. Layers, numbers stored and computing stay the same, in 8 bits too.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from network.cnnres import CNNRes

# Channels that mirroring does not exchange: the image, and the logits.
_OUTSIDE = "outside"


@dataclass(frozen=True)
class Layer:
    """A layer, the groups of channels that it takes, one behind the other, and what it gives."""

    name: str
    sources: tuple[str, ...]
    target: str


def layers(network: CNNRes) -> list[Layer]:
    """All convolutions and batch norms in the order of computing.

    What is added or handed on has the same channels: a residual block and the layers on
    either side of it share a group, and so do a skip connection's two ends.
    """
    found, source = [], _OUTSIDE
    depth = len(network.translations)
    places = [(f"translations.{i}", f"residuals.{i}") for i in range(depth)]
    places.append(("bottleneck_translation", "bottleneck_residual"))
    for i, (translation, residual) in enumerate(places):
        stream, inner = f"level {i}", f"inside {i}"
        found += [
            Layer(f"{translation}.conv", (source,), stream),
            Layer(f"{translation}.norm", (stream,), stream),
            Layer(f"{residual}.norm1", (stream,), stream),
            Layer(f"{residual}.conv1", (stream,), inner),
            Layer(f"{residual}.norm2", (inner,), inner),
            Layer(f"{residual}.conv2", (inner,), stream),
        ]
        source = stream
    found.append(Layer("bottleneck_out", (source,), "bottleneck"))
    source = "bottleneck"
    for i in range(len(network.expansions)):
        skip = (f"level {depth - 1 - i}",) if i < depth else ()
        found.append(Layer(f"expansions.{i}.conv", (source, *skip), f"up {i}"))
        source = f"up {i}"
    return [*found, Layer("head", (source,), _OUTSIDE)]


class Mirror:
    """Which channels of a network mirroring exchanges.

    Parameters
    ----------
    network
        A network of the layers in question.
    partners
        For each group of `layers` the partner of each of its channels, which may be
        the channel itself.
    """

    def __init__(self, network: CNNRes, partners: dict[str, Tensor]) -> None:
        for group, partner in partners.items():
            if not torch.equal(partner[partner], torch.arange(len(partner))):
                raise ValueError(f"{group}: channels are not exchanged in pairs")
        self.partners = partners
        self._exchanges: dict[str, tuple[Tensor, Tensor | None]] = {}
        for layer in layers(network):
            module = network.get_submodule(layer.name)
            if isinstance(module, nn.Identity):
                continue
            outputs = self._of(layer.target, 1)
            inputs = None
            if isinstance(module, nn.Conv2d):
                inputs = self._joined(network, layer)
            for name, tensor in module.state_dict(prefix=f"{layer.name}.").items():
                if tensor.ndim > 0:
                    self._exchanges[name] = outputs, inputs if tensor.ndim > 1 else None

    def _of(self, group: str, width: int) -> Tensor:
        return torch.arange(width) if group == _OUTSIDE else self.partners[group]

    def _joined(self, network: CNNRes, layer: Layer) -> Tensor:
        parts, first = [], 0
        for group in layer.sources:
            partner = self._of(group, network.in_channels)
            parts.append(partner + first)
            first += len(partner)
        return torch.cat(parts)

    def on(self, device: torch.device) -> Self:
        """The same for networks on a device."""
        moved = copy.copy(self)
        moved._exchanges = {
            name: (outputs.to(device), None if inputs is None else inputs.to(device))
            for name, (outputs, inputs) in self._exchanges.items()
        }
        return moved

    def mirrored(self, name: str, tensor: Tensor) -> Tensor:
        """What the network that computes mirrored masks of mirrored images has for a tensor."""
        outputs, inputs = self._exchanges[name]
        exchanged = tensor[outputs]
        if inputs is None:
            return exchanged
        return exchanged[:, inputs].flip(3)

    @torch.no_grad()
    def tie(self, network: CNNRes) -> None:
        """Take the mean of a network and its mirrored one, in place."""
        for name, tensor in network.state_dict().items():
            if name in self._exchanges:
                tensor.copy_((tensor + self.mirrored(name, tensor)) / 2)

    @torch.no_grad()
    def tie_gradients(self, network: CNNRes) -> None:
        """Do so with its gradients: then an optimiser changes tied weights alike."""
        for name, gradient in _gradients(network):
            gradient.copy_((gradient + self.mirrored(name, gradient)) / 2)


def _gradients(network: CNNRes) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad
