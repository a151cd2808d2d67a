"""Networks to begin with."""

import torch
from torch import Tensor, nn

from network.cnnres import CNNRes, folded


def with_norms(network: CNNRes, images: Tensor) -> CNNRes:
    """Give a network whose batch norms were folded its batch norms back, computing the same.

    Each new norm holds the mean and the variance of what comes in for `images`,
    and undoes its own scaling.

    Parameters
    ----------
    images
        (N, C, H, W) such as the network will see.
    """
    places = [
        (block, name)
        for block in network.modules()
        for name, child in block.named_children()
        if isinstance(child, nn.Identity) and name in ("norm", "norm2")
    ]
    for block, name in places:
        conv = block.get_submodule("conv" if name == "norm" else "conv1")
        assert isinstance(conv, nn.Conv2d)
        norm = nn.BatchNorm2d(conv.out_channels)
        norm.register_forward_pre_hook(_take_statistics)
        setattr(block, name, norm)
    network.eval()
    with torch.no_grad():
        network.logits(images)
    for block, name in places:
        getattr(block, name)._forward_pre_hooks.clear()
    return network


def averaged(networks: list[CNNRes], shares: list[float], images: Tensor) -> CNNRes:
    """A network whose weights are the mean of others that began with the same ones.

    What batch norms do is part of the weights that are averaged.

    Parameters
    ----------
    shares
        One for each network; they sum to one.
    images
        (N, C, H, W), see `with_norms`.
    """
    states = [folded(network).state_dict() for network in networks]
    mean = {
        name: sum(share * state[name] for share, state in zip(shares, states, strict=True))
        if first.dtype.is_floating_point
        else first
        for name, first in states[0].items()
    }
    network = folded(networks[0])
    network.load_state_dict(mean)
    return with_norms(network, images)


def _take_statistics(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(norm, nn.BatchNorm2d)
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
    norm.running_mean, norm.running_var = mean, variance
    norm.weight.data = torch.sqrt(variance + norm.eps)
    norm.bias.data = mean.clone()
