"""CNN-Res, a residual U-Net, in PyTorch.

The layers are those of the paper below: 6,465,153 trainable parameters and 5,952
running statistics for one input channel.

References
----------
Gheibi, Shirini, Razavi et al., "CNN-Res: deep learning framework for segmentation
of acute ischemic stroke lesions on multimodal MRI images", BMC Med Inform Decis
Mak 23:192 (2023), https://doi.org/10.1186/s12911-023-02289-y.
"""

import copy
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


@dataclass(frozen=True)
class Widths:
    """Channels at each level of the network.

    Attributes
    ----------
    encoder
        Of the levels on the way down, from the largest images to the smallest.
    bottleneck, bottleneck_out
        Within the bottleneck and behind it.
    decoder
        Of the levels on the way up: one more than in the encoder.
    """

    encoder: tuple[int, ...] = (32, 64, 128, 256)
    bottleneck: int = 512
    bottleneck_out: int = 64
    decoder: tuple[int, ...] = (256, 128, 64, 64, 32)


PUBLISHED = Widths()


class TranslationBlock(nn.Module):
    """Convolution, batch norm, ReLU and max pooling; halves the resolution."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(width_out)

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(functional.relu(self.norm(self.conv(x))), 2)


class ResidualBlock(nn.Module):
    """x + f(x), where f is batch norm, ReLU, conv 1x1, batch norm, ReLU, conv 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 1)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(functional.relu(self.norm1(x)))
        out: Tensor = x + self.conv2(functional.relu(self.norm2(inner)))
        return out


class ExpansionBlock(nn.Module):
    """Nearest-neighbour upsampling, concatenation with the skip connection, convolution, ReLU."""

    def __init__(self, width_in: int, width_skip: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in + width_skip, width_out, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        out: Tensor = functional.relu(self.conv(x))
        return out


class CNNRes(nn.Module):
    """CNN-Res; see the module's documentation.

    Parameters
    ----------
    in_channels
        Number of input channels: 1 for one modality at a time, as in the paper;
        2 for DWI and FLAIR stacked.
    widths
        Widths of the layers: the paper's, or smaller ones for quick tests.
    """

    def __init__(self, in_channels: int = 1, widths: Widths = PUBLISHED) -> None:
        super().__init__()
        self.in_channels = in_channels
        down = (in_channels, *widths.encoder)
        self.translations = nn.ModuleList(TranslationBlock(a, b) for a, b in pairwise(down))
        self.residuals = nn.ModuleList(ResidualBlock(width) for width in widths.encoder)
        self.bottleneck_translation = TranslationBlock(widths.encoder[-1], widths.bottleneck)
        self.bottleneck_residual = ResidualBlock(widths.bottleneck)
        self.bottleneck_out = nn.Conv2d(widths.bottleneck, widths.bottleneck_out, 1)
        up = pairwise((widths.bottleneck_out, *widths.decoder))
        skips = (*reversed(widths.encoder), 0)
        self.expansions = nn.ModuleList(
            ExpansionBlock(a, skip, b) for (a, b), skip in zip(up, skips, strict=True)
        )
        self.head = nn.Conv2d(widths.decoder[-1], 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def logits(self, x: Tensor) -> Tensor:
        """Compute logits (N, 1, H, W) of images (N, C, H, W), H and W multiples of 32."""
        skips: list[Tensor] = []
        for translation, residual in zip(self.translations, self.residuals, strict=True):
            x = residual(translation(x))
            skips.append(x)
        x = self.bottleneck_out(self.bottleneck_residual(self.bottleneck_translation(x)))
        for expansion, skip in zip(self.expansions, [*reversed(skips), None], strict=True):
            x = expansion(x, skip)
        logits: Tensor = self.head(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Compute lesion probabilities (N, 1, H, W) of images (N, C, H, W)."""
        return torch.sigmoid(self.logits(x))


def folded(network: CNNRes) -> CNNRes:
    """Copy of a network with batch norms folded into the preceding convolutions.

    The first batch norm of a residual block stays, since it does not follow a
    convolution.
    """
    network = copy.deepcopy(network).eval()
    for translation in [*network.translations, network.bottleneck_translation]:
        if isinstance(translation.norm, nn.BatchNorm2d):
            translation.conv = fuse_conv_bn_eval(translation.conv, translation.norm)
    for residual in [*network.residuals, network.bottleneck_residual]:
        if isinstance(residual.norm2, nn.BatchNorm2d):
            residual.conv1 = fuse_conv_bn_eval(residual.conv1, residual.norm2)
    return without_folded_norms(network)


def without_folded_norms(network: CNNRes) -> CNNRes:
    """Remove, in place, the batch norms that `folded` folds."""
    for translation in [*network.translations, network.bottleneck_translation]:
        translation.norm = nn.Identity()
    for residual in [*network.residuals, network.bottleneck_residual]:
        residual.norm2 = nn.Identity()
    return network
