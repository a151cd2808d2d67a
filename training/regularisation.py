"""What keeps a network from learning its training images by heart."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional

from network.cnnres import CNNRes, ResidualBlock


@contextmanager
def dropped(network: CNNRes, share: float) -> Iterator[None]:
    """Leave out a share of the channels behind each residual block, other ones for each image.

    What stays is scaled, so that its mean stays the same. Nothing changes with a share of 0.
    """

    def drop(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return functional.dropout2d(output, share)

    blocks = [m for m in network.modules() if isinstance(m, ResidualBlock)] if share else []
    handles = [block.register_forward_hook(drop) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
