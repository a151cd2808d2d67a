import pytest
import torch
from torch import Tensor

from network.cnnres import CNNRes, folded
from tests.narrow import NARROW, narrow_network
from training.mirror import Mirror, layers
from training.rounding import eight_bits
from training.symmetry import in_pairs, padded, symmetric


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 1, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def tied(images: Tensor) -> tuple[CNNRes, Mirror]:
    return symmetric(narrow_network(), images)


def test_mirrored_images_have_mirrored_masks(tied: tuple[CNNRes, Mirror], images: Tensor) -> None:
    network, _ = tied
    for one in (network, folded(network)):
        with torch.inference_mode():
            torch.testing.assert_close(
                one(images.flip(3)), one(images).flip(3), atol=1e-5, rtol=0.0
            )


def test_they_do_in_8_bits_too(tied: tuple[CNNRes, Mirror], images: Tensor) -> None:
    network, _ = tied
    with torch.inference_mode(), eight_bits(network):
        difference = network(images.flip(3)) - network(images).flip(3)
    # Sums in another order may fall on the other side of where a level begins.
    assert difference.abs().mean() < 1e-4
    assert difference.abs().max() < 0.02


def test_tying_twice_is_tying_once(tied: tuple[CNNRes, Mirror]) -> None:
    _, mirror = tied
    network = narrow_network()
    mirror.tie(network)
    once = {name: value.clone() for name, value in network.state_dict().items()}
    mirror.tie(network)
    assert all(torch.equal(once[name], value) for name, value in network.state_dict().items())


def test_nothing_is_added(tied: tuple[CNNRes, Mirror]) -> None:
    shapes = {name: value.shape for name, value in tied[0].state_dict().items()}
    assert shapes == {n: v.shape for n, v in CNNRes(widths=NARROW).state_dict().items()}


def test_partners_are_each_others(tied: tuple[CNNRes, Mirror]) -> None:
    for partner in tied[1].partners.values():
        assert torch.equal(partner[partner], torch.arange(len(partner)))


def test_others_are_refused(tied: tuple[CNNRes, Mirror]) -> None:
    circle = {**tied[1].partners, "level 0": torch.tensor([1, 2, 3, 0])}
    with pytest.raises(ValueError, match="level 0"):
        Mirror(tied[0], circle)


def test_a_symmetric_network_stays(tied: tuple[CNNRes, Mirror], images: Tensor) -> None:
    again, _ = symmetric(tied[0], images)
    with torch.inference_mode():
        torch.testing.assert_close(again(images), tied[0](images), atol=1e-4, rtol=1e-3)


def test_steps_keep_the_symmetry(tied: tuple[CNNRes, Mirror], images: Tensor) -> None:
    _, mirror = tied
    network = narrow_network()
    mirror.tie(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(3):
        optimiser.zero_grad()
        network(images).square().sum().backward()
        mirror.tie_gradients(network)
        optimiser.step()
    with torch.inference_mode():
        torch.testing.assert_close(network(images.flip(3)), network(images).flip(3))


def test_every_layer_is_there() -> None:
    network = CNNRes(widths=NARROW)
    names = {layer.name for layer in layers(network)}
    assert names == {name.rpartition(".")[0] for name, _ in network.named_parameters()}


def test_pairs_are_those_alike() -> None:
    likeness = torch.tensor([[0.1, 0.9, 0.2], [0.9, 0.3, 0.8], [0.2, 0.8, 0.7]])
    assert in_pairs(likeness).tolist() == [1, 0, 2]


def test_frames_are_padded_around() -> None:
    joined = padded([torch.ones(2, 1, 2, 4), torch.ones(1, 1, 4, 4)], 4)
    assert joined.shape == (3, 1, 4, 4)
    assert joined[0, 0, :, 0].tolist() == [0, 1, 1, 0]


def test_on_a_device_it_mirrors_the_same(tied: tuple[CNNRes, Mirror]) -> None:
    _, mirror = tied
    moved = mirror.on(torch.device("cpu"))
    assert moved is not mirror
    weights = {n: v for n, v in narrow_network().state_dict().items() if v.ndim > 0}
    assert any(not torch.equal(mirror.mirrored(n, v), v) for n, v in weights.items())
    for name, value in weights.items():
        assert torch.equal(moved.mirrored(name, value), mirror.mirrored(name, value))
