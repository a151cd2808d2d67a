"""CNN-Res at an eighth of its widths, for tests to which its size proves nothing."""

import torch
from torch import nn

from network.cnnres import CNNRes, Widths

NARROW = Widths((4, 8, 16, 32), 64, 8, (32, 16, 8, 8, 4))


def narrow_network(in_channels: int = 1, seed: int = 3) -> CNNRes:
    """As after some training: no statistics or biases as they began, masks of many sizes."""
    torch.manual_seed(seed)
    network = CNNRes(in_channels, NARROW)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
                module.weight.uniform_(0.5, 1.2)
                module.bias.uniform_(-0.2, 0.2)
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(0.85)
                module.bias.uniform_(-0.05, 0.05)  # type: ignore[union-attr]
        network.head.bias = nn.Parameter(torch.tensor([-0.6]))
    return network.eval()
