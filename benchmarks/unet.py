"""The U-Net that the CNN-Res paper compares with, which has 31,031,685 parameters."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (64, 128, 256, 512, 1024)


class UNet(nn.Module):
    """U-Net (Ronneberger et al., MICCAI 2015) with padding and nearest-neighbour upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(_double(a, b) for a, b in pairwise((1, *WIDTHS)))
        backwards = list(pairwise(reversed(WIDTHS)))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2) for a, b in backwards)
        self.up = nn.ModuleList(_double(a, b) for a, b in backwards)
        self.narrow = nn.Conv2d(WIDTHS[0], 2, 3, padding=1)
        self.head = nn.Conv2d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, H, W) to probabilities (N, 1, H, W); H and W are multiples of 16."""
        skips: list[Tensor] = []
        for block in self.down:
            x = block(functional.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for shrink, block, skip in zip(self.shrink, self.up, reversed(skips[:-1]), strict=True):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = functional.relu(shrink(functional.pad(x, (0, 1, 0, 1))))
            x = block(torch.cat([skip, x], dim=1))
        return torch.sigmoid(self.head(functional.relu(self.narrow(x))))


def _double(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width_out, width_out, 3, padding=1),
        nn.ReLU(),
    )
