import pytest
import torch

from network.cnnres import CNNRes


def test_parameter_counts_are_those_of_the_paper() -> None:
    network = CNNRes()
    trainable = sum(p.numel() for p in network.parameters())
    running = sum(b.numel() for name, b in network.named_buffers() if "running" in name)
    assert trainable == 6_465_153
    assert running == 5_952
    assert trainable + running == 6_471_105


@pytest.mark.parametrize("channels", [1, 2])
def test_output_shape(channels: int) -> None:
    network = CNNRes(channels).eval()
    with torch.inference_mode():
        output = network(torch.rand(2, channels, 160, 160))
    assert output.shape == (2, 1, 160, 160)
    assert 0 <= output.min() <= output.max() <= 1


def test_feature_maps_have_the_sizes_in_the_paper() -> None:
    network, sizes = CNNRes().eval(), []
    for module in [*network.residuals, network.bottleneck_out, *network.expansions]:
        module.register_forward_hook(lambda _m, _i, output: sizes.append(tuple(output.shape[1:])))
    with torch.inference_mode():
        network(torch.rand(1, 1, 160, 160))
    assert sizes == [
        (32, 80, 80),
        (64, 40, 40),
        (128, 20, 20),
        (256, 10, 10),
        (64, 5, 5),
        (256, 10, 10),
        (128, 20, 20),
        (64, 40, 40),
        (64, 80, 80),
        (32, 160, 160),
    ]
