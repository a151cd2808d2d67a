from pathlib import Path

import torch

from network.checkpoint import load_checkpoint
from network.cnnres import CNNRes
from training.start import averaged, with_norms


def test_norms_come_back_without_changing_answers(default_bundle: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 1, 96, 128)
    before = load_checkpoint(default_bundle / "model.fp32.onnx")
    after = with_norms(load_checkpoint(default_bundle / "model.fp32.onnx"), images)
    assert set(after.state_dict()) == set(CNNRes().state_dict())
    other = torch.rand(2, 1, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(after(other), before(other), atol=1e-4, rtol=1e-4)


def test_a_whole_network_stays() -> None:
    network = CNNRes().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    after = with_norms(network, torch.rand(1, 1, 32, 32)).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_mean_of_a_network_and_itself_is_the_network(default_bundle: Path) -> None:
    folded = load_checkpoint(default_bundle / "model.fp32.onnx")
    images = torch.rand(2, 1, 96, 96)
    whole = with_norms(load_checkpoint(default_bundle / "model.fp32.onnx"), images)
    mean = averaged([whole, folded], [0.25, 0.75], images)
    assert set(mean.state_dict()) == set(CNNRes().state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(mean(images), folded(images), atol=1e-4, rtol=1e-4)


def test_means_are_weighted() -> None:
    first, second = CNNRes().eval(), CNNRes().eval()
    mean = averaged([first, second], [0.25, 0.75], torch.rand(2, 1, 64, 64))
    expected = 0.25 * first.head.weight + 0.75 * second.head.weight
    torch.testing.assert_close(mean.head.weight, expected)
