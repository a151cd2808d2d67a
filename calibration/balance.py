"""Balancing the ranges of channels, so that 8 bits serve all of them.

A tensor is rounded by one step, as coarse as its largest channel wants it; the weights
of a convolution's output are, too. Where channels differ in range, the small ones lose
most of their precision, such as those of a skip connection beside upsampled ones. The
float network computes the same with balanced channels; only 8 bits make a smaller error.

References
----------
M. Nagel et al., "Data-free quantization through weight equalization and bias
correction", ICCV 2019, for the scaling; the factors here are those of the smallest
predicted error.
"""

import torch
from torch import Tensor

from calibration.noise import NoiseModel
from calibration.plan import Plan

_STEPS = 150
_RATE = 0.05


def balancing_factors(noise: NoiseModel, plan: Plan) -> Tensor:
    """The factors (groups,) that channels are divided by for the smallest error of a plan.

    Groups that mirroring exchanges get the same factor, so that a network that is
    symmetric by construction remains so in 8 bits.
    """
    partners = torch.from_numpy(noise.channels.partners)
    scalable = (torch.arange(len(partners)) > 0).float()
    logarithms = torch.zeros(len(partners), requires_grad=True)
    optimiser = torch.optim.Adam([logarithms], _RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, _STEPS)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        noise.error(plan, _factors(logarithms, partners, scalable)).log().backward()
        optimiser.step()
        schedule.step()
    return _factors(logarithms.detach(), partners, scalable)


def _factors(logarithms: Tensor, partners: Tensor, scalable: Tensor) -> Tensor:
    return ((logarithms + logarithms[partners]) / 2 * scalable).exp()
