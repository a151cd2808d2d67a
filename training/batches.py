"""Batches to train on: drawn from pools of images and changed at random."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from training import augment
from training.data import Collections, Images

_SMALLEST_SHAPE = 20


@dataclass(frozen=True)
class Pool:
    """Images to draw from: how many in a batch, how many of them get lesions pasted in."""

    images: Tensor
    masks: Tensor
    count: int
    pasted: float


class Batches:
    """Random batches of images with their masks, both (N, 1, H, W).

    Parameters
    ----------
    seed
        Gives the same batches again on the same kind of device.
    device
        Where images lie and are changed.
    """

    def __init__(self, collections: Collections, seed: int, device: torch.device) -> None:
        self.generator = Generator(device).manual_seed(seed)
        self._pools = _pools(collections, device)
        self._shapes = _lesion_shapes(collections.soop).to(device)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw the next batch; each pool gives its share."""
        generator, pools = self.generator, self._pools
        picks = [self._choose(len(p.images), p.count) for p in pools]
        images = torch.cat([p.images[pick] for p, pick in zip(pools, picks, strict=True)])
        masks = torch.cat([p.masks[pick] for p, pick in zip(pools, picks, strict=True)])
        wanted = torch.cat([augment.chance(generator, p.count, p.pasted) for p in pools])
        images, masks = augment.deform(images, masks, generator)
        images = augment.unsaturate(images, generator)
        images, masks = augment.paste_lesions(images, masks, self._shapes, wanted, generator)
        images = augment.brighten_rims(images, generator)
        return augment.change_intensity(images, generator), masks

    def draw_pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draw two thirds of a batch: images, copies that nobody could tell apart, masks."""
        images, masks = self.draw()
        device = self.generator.device
        keep = torch.randperm(len(images), generator=self.generator, device=device)
        keep = keep[: len(images) * 2 // 3]
        return images[keep], augment.jitter(images[keep], self.generator), masks[keep]

    def _choose(self, among: int, count: int) -> Tensor:
        generator = self.generator
        return torch.randint(among, (count,), generator=generator, device=generator.device)


def _pools(collections: Collections, device: torch.device) -> list[Pool]:
    def pool(images: Images, count: int, pasted: float) -> Pool:
        pixels, masks = (
            torch.from_numpy(array).to(device)[:, None] for array in (images.pixels, images.masks)
        )
        return Pool(pixels, masks, count, pasted)

    dwi = pool(collections.dwi, 8, 0.15)
    pairs = zip(dwi.images[:, 0], dwi.masks[:, 0], strict=True)
    halves = [half for pair in pairs if (half := augment.mirror_healthy(*pair)) is not None]
    mirrored = torch.stack(halves)[:, None]
    return [
        dwi,
        Pool(mirrored, torch.zeros_like(mirrored), 3, 0.4),
        pool(collections.volume, 6, 0.4),
        pool(collections.healthy, 3, 0.4),
        pool(collections.flair, 2, 0.1),
        pool(collections.soop, 2, 0.1),
    ]


def _lesion_shapes(images: Images) -> Tensor:
    masks = (images.masks > 0.5).astype(np.float32)
    return torch.from_numpy(masks[masks.sum(axis=(1, 2)) > _SMALLEST_SHAPE])[:, None]
