from functools import partial

import numpy as np
import onnx
import pytest
import torch

from calibration.balance import balancing_factors
from calibration.candidate import Candidate
from calibration.channels import Channels
from calibration.logit_error import LogitError
from calibration.noise import NoiseModel, Statistics
from calibration.plan import INT8_CPU, INT8_TRT, Plan, Scheme
from calibration.sensitivity import layer_sensitivities, most_sensitive_block
from cnnres_infer.core.arrays import FloatArray
from export.onnx_graph import constants_of, with_constants
from export.passes import rewritten
from tests.calibration.conftest import computed, small_network

SCHEMES = pytest.mark.parametrize("scheme", [INT8_CPU, INT8_TRT], ids=lambda s: s.variant)


def mirrored(weights: np.ndarray, inputs: list[int]) -> np.ndarray:
    return weights[::-1, inputs, :, ::-1]


def symmetric_network() -> onnx.ModelProto:
    """The small network with the first channel of each tensor tied to the last, and so on."""
    network = small_network()
    tied = {}
    for name, value in constants_of(network).items():
        if value.ndim == 4:
            parts = [6, 8] if name == "expand.weight" else [value.shape[1]]
            starts = np.cumsum([0, *parts])
            order = [
                first + n - 1 - i for first, n in zip(starts, parts, strict=False) for i in range(n)
            ]
            tied[name] = (value + mirrored(value, order)) / 2
        elif name != "scales":
            tied[name] = (value + value[::-1]) / 2
    return with_constants(network, tied)


def uneven(network: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, with channels of the shortcut and the skip of very different ranges."""
    channels = Channels.of(network)
    factors = np.exp(np.random.default_rng(3).normal(0, 1.5, len(channels.partners)))
    factors[0] = 1
    return channels.scaled(factors.astype(np.float32))


def noise_model(model: onnx.ModelProto, images: FloatArray, threshold: float) -> NoiseModel:
    channels = Channels.of(model)
    return NoiseModel(channels, Statistics.of(channels, [images] * 16, threshold, 0))


def planned(noise: NoiseModel, scheme: Scheme) -> tuple[Plan, torch.Tensor]:
    ones = torch.ones(len(noise.channels.partners))
    return noise.plan(ones, scheme), ones


def balanced(noise: NoiseModel, scheme: Scheme) -> tuple[Candidate, torch.Tensor]:
    factors = balancing_factors(noise, planned(noise, scheme)[0])
    plan = noise.plan(factors, scheme)
    return Candidate(noise.channels.scaled(factors.numpy()), plan), factors


@SCHEMES
def test_scaling_channels_changes_nothing_in_float(
    network: onnx.ModelProto, images: FloatArray, scheme: Scheme
) -> None:
    model = rewritten(network, scheme.passes)
    before, after = constants_of(model), constants_of(uneven(model))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    kernels = {"stem", "conv1", "conv2", "bottom", "expand", "last", "head"}
    assert {f"{name}.weight" for name in kernels} <= changed
    np.testing.assert_allclose(computed(uneven(model), images), computed(model, images), atol=1e-5)


def test_a_shortcut_and_its_block_are_scaled_alike(network: onnx.ModelProto) -> None:
    groups = Channels.of(network).groups
    assert np.array_equal(groups["stem"], groups["conv2"])
    assert np.array_equal(groups["both"], np.concatenate([groups["bottom"], groups["trunk"]]))
    assert not set(groups["norm"]) & set(groups["stem"])
    assert not groups["images"].any()
    assert not groups["head"].any()


@SCHEMES
def test_balancing_undoes_uneven_channels(
    network: onnx.ModelProto, images: FloatArray, scheme: Scheme
) -> None:
    expected = computed(network, images)
    threshold = float(np.median(expected))
    error = LogitError(images, expected, threshold)
    noise = noise_model(uneven(rewritten(network, scheme.passes)), images, threshold)
    plan, _ = planned(noise, scheme)
    made, factors = balanced(noise, scheme)
    before = error(partial(computed, Candidate(noise.channels.model, plan).onnx))
    after = error(partial(computed, made.onnx))
    assert after < before / 2
    predicted = noise.error(made.plan, factors).sqrt().item()
    assert after / 3 < predicted < after * 3


@SCHEMES
def test_mirrored_images_keep_mirrored_answers_in_8_bits(
    images: FloatArray, scheme: Scheme
) -> None:
    model = rewritten(symmetric_network(), scheme.passes)
    noise = noise_model(uneven_but_symmetric(model), images, 0.5)
    partners = noise.channels.partners
    assert (partners != np.arange(len(partners))).sum() > len(partners) / 2
    made, _ = balanced(noise, scheme)
    there = computed(made.onnx, images)
    back = computed(made.onnx, np.ascontiguousarray(images[..., ::-1]))[..., ::-1]
    rounding = np.abs(there - computed(model, images)).mean()
    assert rounding > 1e-4
    # Where a float sum comes out another way, a value may be rounded to another step.
    assert np.abs(back - there).mean() < 0.02 * rounding


def uneven_but_symmetric(network: onnx.ModelProto) -> onnx.ModelProto:
    channels = Channels.of(network)
    logarithms = np.random.default_rng(3).normal(0, 1, len(channels.partners))
    logarithms += logarithms[channels.partners]
    logarithms[0] = 0
    return channels.scaled(np.exp(logarithms).astype(np.float32))


def test_networks_without_symmetry_have_no_partners(network: onnx.ModelProto) -> None:
    partners = Channels.of(network).partners
    assert np.array_equal(partners, np.arange(len(partners)))


def test_the_most_sensitive_block_is_the_one_that_saves_most_for_its_cost(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    noise = noise_model(rewritten(network, INT8_CPU.passes), images, 0.5)
    plan, ones = planned(noise, INT8_CPU)
    whole = noise.error(plan, ones).sqrt().item()
    layers = layer_sensitivities(noise, plan, ones)
    assert all(0 < layer.error_alone <= whole for layer in layers)
    assert all(layer.error_without <= whole for layer in layers)
    assert layers[0].error_without == min(layer.error_without for layer in layers)
    worst = most_sensitive_block(noise, plan, ones)
    saved = {
        layer.name: (whole**2 - layer.error_without**2) / (layer.share + 0.02) for layer in layers
    }
    assert worst.name == max(saved, key=saved.__getitem__)  # every block has one layer here
    assert noise.plan(ones, INT8_CPU, worst.convs).convs == plan.convs - worst.convs
