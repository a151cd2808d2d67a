import pytest
import torch

pytest.importorskip("h5py", reason="needs `pip install --group export`")

from network.cnnres import CNNRes
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
