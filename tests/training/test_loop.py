import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("h5py", reason="needs `pip install --group export`")

from network.checkpoint import load_checkpoint
from network.cnnres import CNNRes
from tests.narrow import NARROW, narrow_network
from training.checks import check
from training.data import Collections, Images
from training.loop import Recipe, _average, _learning_rate, train
from training.symmetry import symmetric

pytestmark = pytest.mark.slow  # trains


def images(count: int) -> Images:
    row, column = np.indices((160, 160))
    brain = ((row - 80) / 60) ** 2 + ((column - 80) / 50) ** 2 < 1
    lesion = (row - 60) ** 2 + (column - 55) ** 2 < 100
    pixels = np.where(lesion, 0.9, np.where(brain, 0.5, 0.0)).astype(np.float32)
    many, masks = (np.repeat(x[None], count, axis=0) for x in (pixels, lesion.astype(np.float32)))
    return Images(many, masks, tuple(f"p{i}" for i in range(count)))


@pytest.fixture(scope="module")
def collections() -> Collections:
    some = images(2)
    return Collections(some, some, some, some, some, some, some, (some, some))


def test_a_seed_gives_the_same_weights(collections: Collections, tmp_path: Path) -> None:
    recipe = Recipe(steps=2, check_every=1, rounded_from=0.5, seed=4, widths=NARROW)
    for name in ("a", "b"):
        train(collections, {"volume": images(1)}, recipe, tmp_path / name)
    first, second = (load_file(tmp_path / name / "step-00002.safetensors") for name in ("a", "b"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    log = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2]
    assert {"dice", "found_50", "steady", "rounded", "cropped", "mirrored"} <= set(log[0]["volume"])
    assert (
        load_checkpoint(tmp_path / "a" / "step-00002.safetensors", widths=NARROW).in_channels == 1
    )


def test_training_goes_on_from_given_weights(collections: Collections, tmp_path: Path) -> None:
    start = narrow_network()
    recipe = Recipe(steps=1, learning_rate=0.0, weight_decay=0.0)
    train(collections, {}, recipe, tmp_path, start=start)
    kept, given = load_file(tmp_path / "step-00001.safetensors"), start.state_dict()
    assert all(torch.equal(kept[key], given[key]) for key in kept)


def test_a_symmetric_network_stays_symmetric(collections: Collections, tmp_path: Path) -> None:
    pictures = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    start, mirror = symmetric(narrow_network(), pictures)
    recipe = Recipe(steps=3, learning_rate=1e-3, rounded_from=0.5)
    train(collections, {}, recipe, tmp_path, start=start, mirror=mirror)
    trained = load_checkpoint(tmp_path / "step-00003.safetensors", widths=NARROW)
    assert not torch.equal(trained.head.weight, start.head.weight)
    with torch.inference_mode():
        torch.testing.assert_close(
            trained(pictures.flip(3)), trained(pictures).flip(3), atol=1e-5, rtol=0.0
        )


def test_training_ends_in_time(collections: Collections, tmp_path: Path) -> None:
    train(collections, {}, Recipe(steps=1000, minutes=1e-9, widths=NARROW), tmp_path)
    assert json.loads((tmp_path / "log.jsonl").read_text())["step"] == 1


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    recipe = Recipe(steps=1000)
    rates = [_learning_rate(recipe, step / 1000) for step in range(1, 1001)]
    assert max(rates) == pytest.approx(recipe.learning_rate, rel=0.01)
    assert rates[0] < 0.05 * recipe.learning_rate
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)


def test_the_average_follows_the_network() -> None:
    average, network = CNNRes(widths=NARROW), CNNRes(widths=NARROW)
    before = average.head.weight.clone()
    _average(average, network, 0.75)
    torch.testing.assert_close(average.head.weight, 0.75 * before + 0.25 * network.head.weight)


def test_check_of_a_network_that_finds_nothing() -> None:
    network = CNNRes(widths=NARROW).eval()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias = torch.nn.Parameter(torch.full((1,), -5.0))
    figures = check(network, images(2))
    assert figures["dice"] == figures["slices"] == figures["found_30"] == 0.0
    assert figures["steady"] == figures["rounded"] == figures["cropped"] == 1.0
