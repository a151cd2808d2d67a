"""Make a trained network symmetric: find which of its channels see the mirrored of what.

Channels of trained networks roughly come in such pairs, or look symmetric themselves. The
mean of a network and of itself, mirrored and with its channels exchanged, is then not far
from it, as is the mean of networks that were trained apart once their channels are matched.

References
----------
Ainsworth, Hayase, Srinivasa, "Git Re-Basin: merging models modulo permutation symmetries",
ICLR 2023. Jordan et al., "REPAIR: REnormalizing permuted activations for interpolation
repair", ICLR 2023.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.cnnres import CNNRes, ResidualBlock, folded
from training.mirror import Layer, Mirror, layers
from training.start import with_norms

_BRAIN = 0.01
_LEAST_SPREAD = 1e-4


@torch.no_grad()
def symmetric(network: CNNRes, images: Tensor) -> tuple[CNNRes, Mirror]:
    """A symmetric network that computes nearly the same, and which channels it exchanges.

    A network that is symmetric already stays as it is.

    Parameters
    ----------
    images
        (N, C, H, W) such as the network will see; H and W multiples of 32.
    """
    network = folded(network)
    images = torch.cat([images, images.flip(3)])
    _standardise(network, images)
    mirror = Mirror(network, _partners(network, images))
    _equalise(network, mirror, images)
    wanted = _statistics(network, images)
    mirror.tie(network)
    _restore(network, mirror, images, wanted)
    mirror.tie(network)
    whole = with_norms(network, images)
    mirror = Mirror(whole, mirror.partners)
    mirror.tie(whole)
    return whole, mirror


def padded(images: list[Tensor], size: int) -> Tensor:
    """Join images of many frames, with zeros around them up to one square size in pixels."""
    return torch.cat([_padded(batch, size) for batch in images])


def _padded(batch: Tensor, size: int) -> Tensor:
    rows, columns = (size - extent for extent in batch.shape[2:])
    edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return functional.pad(batch, edges)


def in_pairs(likeness: Tensor) -> Tensor:
    """Pair channels, or leave them single, for a large sum of each one's likeness to its partner.

    The pairs that gain most over two single channels come first.

    Parameters
    ----------
    likeness
        (C, C), symmetric.

    Returns
    -------
    Tensor
        (C,) the partner of each channel.
    """
    count = len(likeness)
    single = likeness.diagonal()
    gain = 2 * likeness - single[:, None] - single[None]
    rows, columns = torch.triu_indices(count, count, 1)
    order = torch.argsort(gain[rows, columns], descending=True)
    partner = torch.arange(count)
    free = torch.ones(count, dtype=torch.bool)
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if gain[i, j] <= 0:
            break
        if free[i] and free[j]:
            partner[i], partner[j] = j, i
            free[i] = free[j] = False
    return partner


def _partners(network: CNNRes, images: Tensor) -> dict[str, Tensor]:
    """Pair channels by how what they give for mirrored images, mirrored, correlates in brains.

    Parameters
    ----------
    images
        (2 N, C, H, W), the second half being the first, mirrored.
    """
    likeness: dict[str, Tensor] = {}

    def compare(layer: Layer, _: nn.Conv2d, output: Tensor) -> None:
        if layer.name == "head":
            return
        output = functional.relu(output) if _is_rectified(layer) else output
        brain = _brain(images, output)
        mean, spread = _moments(output, brain)
        channels = (output - mean[:, None, None]) / spread.clamp(min=_LEAST_SPREAD)[:, None, None]
        half = len(images) // 2
        first, second = channels[:half] * brain[:half], channels[half:].flip(3)
        found = first.transpose(0, 1).flatten(1) @ second.transpose(0, 1).flatten(1).T
        found = found / brain[:half].sum()
        likeness[layer.target] = likeness.get(layer.target, 0) + found + found.T

    with _watched(network, compare):
        network.logits(images)
    return {group: in_pairs(found) for group, found in likeness.items()}


def _is_rectified(layer: Layer) -> bool:
    """Whether nothing but a ReLU takes what a convolution gives."""
    return layer.name.endswith((".conv", ".conv1"))


@contextmanager
def _watched(
    network: CNNRes, watch: Callable[[Layer, nn.Conv2d, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call a function with every convolution's output, which it may replace."""
    handles = []
    for layer in layers(network):
        module = network.get_submodule(layer.name)
        if isinstance(module, nn.Conv2d):

            def hook(
                module: nn.Module, _: object, output: Tensor, layer: Layer = layer
            ) -> Tensor | None:
                assert isinstance(module, nn.Conv2d)
                return watch(layer, module, output)

            handles.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _standardise(network: CNNRes, images: Tensor) -> None:
    """Let the first norms of residual blocks hold the statistics of what comes in."""

    def hold(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        shrunk = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        norm.bias.add_(shrunk * (mean - norm.running_mean))
        norm.weight.copy_(shrunk * torch.sqrt(variance + norm.eps))
        norm.running_mean, norm.running_var = mean, variance

    norms = [m.norm1 for m in network.modules() if isinstance(m, ResidualBlock)]
    handles = [norm.register_forward_pre_hook(hold) for norm in norms]
    network.logits(images)
    for handle in handles:
        handle.remove()


def _brain(images: Tensor, output: Tensor) -> Tensor:
    """(N, 1, H, W): where an output lies in the brain."""
    brain = (images > _BRAIN).any(dim=1, keepdim=True).float()
    return functional.adaptive_max_pool2d(brain, output.shape[2:])


def _moments(output: Tensor, brain: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over the brain."""
    share = brain / brain.sum()
    mean = (output * share).sum(dim=(0, 2, 3))
    return mean, ((output - mean[:, None, None]) ** 2 * share).sum(dim=(0, 2, 3)).sqrt()


def _statistics(network: CNNRes, images: Tensor) -> list[tuple[Layer, Tensor, Tensor]]:
    """Mean and standard deviation of what each convolution gives, channel by channel."""
    found = []

    def keep(layer: Layer, _: nn.Conv2d, output: Tensor) -> None:
        found.append((layer, *_moments(output, _brain(images, output))))

    with _watched(network, keep):
        network.logits(images)
    return found


def _equalise(network: CNNRes, mirror: Mirror, images: Tensor) -> None:
    """Scale partners to one spread, and undo it in what takes them."""
    spreads: dict[str, list[Tensor]] = defaultdict(list)
    for layer, _, spread in _statistics(network, images):
        spreads[layer.target].append(spread.clamp(min=_LEAST_SPREAD))
    scales = {}
    for group, partner in mirror.partners.items():
        spread = torch.stack(spreads[group]).mean(dim=0)
        scales[group] = torch.sqrt(spread[partner] / spread)
    for layer in layers(network):
        module = network.get_submodule(layer.name)
        scale = scales.get(layer.target)
        if isinstance(module, nn.Conv2d):
            taken = [scales[group] for group in layer.sources if group in scales]
            if taken:
                module.weight /= torch.cat(taken)[:, None, None]
            if scale is not None:
                module.weight *= scale[:, None, None, None]
                module.bias *= scale  # type: ignore[operator]
        elif isinstance(module, nn.BatchNorm2d) and scale is not None:
            module.running_mean *= scale  # type: ignore[operator]
            module.running_var *= scale**2  # type: ignore[operator]


def _restore(
    network: CNNRes, mirror: Mirror, images: Tensor, wanted: list[tuple[Layer, Tensor, Tensor]]
) -> None:
    """Scale and shift what convolutions give to the mean and the spread that partners had.

    The mean of two kernels that agree by half gives less than either does.
    """
    rest = iter(wanted)

    def scale(layer: Layer, conv: nn.Conv2d, output: Tensor) -> Tensor:
        _, mean, spread = next(rest)
        if layer.target in mirror.partners:
            partner = mirror.partners[layer.target]
            mean, spread = (mean + mean[partner]) / 2, (spread + spread[partner]) / 2
        found, found_spread = _moments(output, _brain(images, output))
        factor = spread / found_spread.clamp(min=_LEAST_SPREAD)
        shift = mean - found * factor
        conv.weight *= factor[:, None, None, None]
        assert conv.bias is not None
        conv.bias.copy_(conv.bias * factor + shift)
        return output * factor[:, None, None] + shift[:, None, None]

    with _watched(network, scale):
        network.logits(images)
