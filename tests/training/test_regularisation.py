import pytest
import torch

pytest.importorskip("h5py", reason="needs `pip install --group export`")

from network.cnnres import CNNRes, ResidualBlock
from tests.narrow import narrow_network
from training.regularisation import dropped


@pytest.fixture
def network() -> CNNRes:
    return narrow_network().eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))


def test_other_channels_are_left_out_each_time(network: CNNRes, images: torch.Tensor) -> None:
    with torch.inference_mode():
        before = network(images)
        with dropped(network, 0.5):
            first, second = network(images), network(images)
        after = network(images)
    assert not torch.equal(first, second)
    assert torch.equal(before, after)


def test_a_share_of_nothing_changes_nothing(network: CNNRes, images: torch.Tensor) -> None:
    with torch.inference_mode(), dropped(network, 0.0):
        during = network(images)
    with torch.inference_mode():
        assert torch.equal(during, network(images))


def test_whole_channels_are_left_out_and_the_others_scaled(
    network: CNNRes, images: torch.Tensor
) -> None:
    block = next(m for m in network.modules() if isinstance(m, ResidualBlock))
    outputs: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
        outputs.append(output.clone())

    torch.manual_seed(0)
    with torch.inference_mode():
        before = block.register_forward_hook(keep)
        with dropped(network, 0.5):
            after = block.register_forward_hook(keep)
            network(images)
    before.remove()
    after.remove()
    whole, left = outputs
    out = (left == 0).all(dim=3).all(dim=2)
    assert whole.abs().amax(dim=(2, 3)).min() > 0
    assert 0 < out.sum() < out.numel()
    torch.testing.assert_close(left, whole * 2 * ~out[:, :, None, None])
