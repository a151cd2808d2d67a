import torch

from training.rounding import Scheme, rounded_images, rounded_weights


def test_images_of_the_cpu_use_the_range_that_they_fill() -> None:
    x = torch.linspace(0, 1, 1001)
    cpu, tensorrt = (rounded_images(x, scheme) for scheme in Scheme)
    assert len(cpu.unique()) == 256
    assert len(tensorrt.unique()) == 128  # half of the levels are for negative ones


def test_weights_have_a_scale_for_each_channel_or_for_all() -> None:
    weight = torch.stack([torch.linspace(-1, 1, 9), torch.linspace(-0.001, 0.001, 9)])
    weight = weight.view(2, 1, 3, 3)
    cpu, tensorrt = (rounded_weights(weight, scheme) for scheme in Scheme)
    torch.testing.assert_close(cpu[1], weight[1], rtol=0.0, atol=5e-6)
    assert (tensorrt[1] == 0).all()
    torch.testing.assert_close(tensorrt[0], cpu[0])


def test_gradients_pass() -> None:
    for scheme in Scheme:
        x = torch.rand(10, requires_grad=True)
        (gradient,) = torch.autograd.grad(rounded_images(x, scheme).sum(), x)
        assert torch.equal(gradient, torch.ones(10))
