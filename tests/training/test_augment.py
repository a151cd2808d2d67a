from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from training import augment


def disc(count: int = 4) -> tuple[Tensor, Tensor]:
    row, column = torch.meshgrid(torch.arange(160.0), torch.arange(160.0), indexing="ij")
    distance = torch.sqrt((row - 80) ** 2 + (column - 80) ** 2)
    image = torch.where(distance < 60, 0.5, 0.0)
    mask = ((row - 60) ** 2 + (column - 100) ** 2 < 8**2).float()
    image = torch.where(mask > 0, 0.9, image)
    return image.expand(count, 1, -1, -1).clone(), mask.expand(count, 1, -1, -1).clone()


CHANGES: list[Callable[[Tensor, Generator], Tensor]] = [
    augment.brighten_rims,
    augment.change_intensity,
    augment.jitter,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_seed_gives_the_same_images(change: Callable[[Tensor, Generator], Tensor]) -> None:
    image, _ = disc(16)
    first, second = (change(image, Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, image)
    assert not first[image == 0].any()


def test_masks_move_with_their_images() -> None:
    image, mask = disc(8)
    moved, moved_mask = augment.deform(image, mask, Generator().manual_seed(1))
    inside = moved[moved_mask > 0.9]
    assert inside.mean() > 0.85
    areas = (moved_mask > 0.5).sum(dim=(1, 2, 3)) / (mask[0] > 0.5).sum()
    assert ((areas > 0.5) & (areas < 1.6)).all()


def test_pasted_lesions_are_bright_and_marked() -> None:
    image, mask = disc(16)
    image = torch.where(image > 0, 0.5, 0.0)
    nothing = torch.zeros_like(mask)
    wanted = torch.zeros(16, 1, 1, 1)
    wanted[:8] = 1
    lesions, marked = augment.paste_lesions(
        image, nothing, mask[:1], wanted, Generator().manual_seed(0)
    )
    assert torch.equal(lesions[8:], image[8:])
    assert not marked[8:].any()
    found = marked[:8].sum(dim=(1, 2, 3)) > 0
    assert found.float().mean() > 0.7
    assert lesions[:8][marked[:8] > 0].mean() > 0.58
    assert not lesions[image == 0].any()


def test_transplanted_lesions_are_those_of_the_donors() -> None:
    image, mask = disc(4)
    healthy = torch.where(image > 0, 0.5, 0.0)
    lesions, marked = augment.transplant_lesions(healthy, torch.zeros_like(mask), (image, mask))
    assert torch.equal(marked, mask)
    assert lesions[0, 0, 60, 100] == image[0, 0, 60, 100]
    assert lesions[0, 0, 100, 60] == 0.5


def test_a_trimmed_edge_is_trimmed_from_the_mask_too() -> None:
    image, _ = disc(32)
    mask = (image > 0).float()
    trimmed, trimmed_mask = augment.trim_edge(image, mask, Generator().manual_seed(0))
    assert torch.equal(trimmed > 0, trimmed_mask > 0)
    areas = (trimmed > 0).sum(dim=(1, 2, 3)) / (image[0] > 0).sum()
    assert areas.min() < 1
    assert areas.min() > 0.9
    assert areas.max() == 1


def test_the_half_without_lesion_is_mirrored() -> None:
    image, mask = disc(1)
    mirrored = augment.mirror_healthy(image[0, 0], mask[0, 0])
    assert mirrored is not None
    assert torch.equal(mirrored, mirrored.flip(1))
    assert mirrored.max() == np.float32(0.5)
    both = torch.maximum(mask, mask.flip(3))
    assert augment.mirror_healthy(image[0, 0], both[0, 0]) is None


@pytest.mark.parametrize("shape", [(160, 96), (96, 160)])
def test_jittered_images_stay_in_range_and_near(shape: tuple[int, int]) -> None:
    image = torch.rand(32, 1, *shape, generator=Generator().manual_seed(2))
    jittered = augment.jitter(image, Generator().manual_seed(4))
    assert jittered.shape == image.shape
    assert jittered.min() >= 0
    assert jittered.max() <= 1
    change = (jittered - image).abs()
    assert (change.mean(dim=(1, 2, 3)) < 0.03).all()
    assert 0.02 < change.max() < 0.2
