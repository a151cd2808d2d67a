"""Batches to train on: drawn from pools of images and changed at random."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from cnnres_infer.core.arrays import FloatArray
from training import augment
from training.data import Collections, Images
from training.views import View, brain_boxes, draw_frame

_SMALLEST_SHAPE = 20
# Images that are drawn for each that is kept, so that most brains fit their frame.
_CANDIDATES = 3
# Pixels by which a brain may exceed its frame before another image is preferred.
_TOLERANCE = 6
# Lesions of so few or so many pixels are drawn so many times as often as others.
_TINY, _GIANT, _RARE_WEIGHT = 50, 1500, 2.5
# What a teacher may see in a half that is healthy.
_TRACE = 0.1
# Brightness of a lesion over that of tissue from which it counts as visible.
_VISIBLE = 1.25


@dataclass(frozen=True)
class Pool:
    """Images to draw from: how many in a batch, how many of them get lesions pasted in.

    Attributes
    ----------
    images, masks
        float16 (N, 1, H, W).
    weights
        (N,) how often each is drawn.
    sizes
        (N, 2) height and width of each brain.
    count, pasted
        Images in a batch, and the share of them that gets lesions.
    """

    images: Tensor
    masks: Tensor
    weights: Tensor
    sizes: Tensor
    count: int
    pasted: float


@dataclass(frozen=True)
class Pair:
    """The same images seen twice, in two frames and now and then mirrored.

    Attributes
    ----------
    images, masks
        float32 (N, 1, height, width) of the first view.
    copies, copied_masks
        Of the second, whose images differ by what nobody could see.
    first, second
        The views.
    """

    images: Tensor
    masks: Tensor
    copies: Tensor
    copied_masks: Tensor
    first: View
    second: View


class Batches:
    """Random pairs of views of images with their masks.

    Parameters
    ----------
    seed
        Gives the same batches again on the same kind of device.
    device
        Where images lie and are changed.
    times
        Each pool gives so many times its count.
    """

    def __init__(
        self, collections: Collections, seed: int, device: torch.device, times: int = 1
    ) -> None:
        self.generator = Generator(device).manual_seed(seed)
        self._pools = [replace(p, count=times * p.count) for p in _pools(collections, device)]
        self._shapes = _lesion_shapes(collections.soop).to(device)
        self._donors = _tensors(_visible(collections.dwi), device)

    def draw(self) -> Pair:
        """Draw the next batch; each pool gives its share."""
        frame = draw_frame(self.generator)
        images, masks = self._changed(frame)
        second_frame = draw_frame(self.generator)
        first = View.draw(images, frame, 0.0, self.generator)
        # Frames of one size most of the time: what is cut off can teach no consistency.
        same = float(augment.chance(self.generator, 1, 0.5)) > 0
        second = View.draw(images, frame if same else second_frame, 0.5, self.generator)
        copies = augment.jitter(second.of(images), self.generator)
        return Pair(first.of(images), first.of(masks), copies, second.of(masks), first, second)

    def _changed(self, frame: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Whole images and masks, changed at random, most of whose brains fit a frame."""
        generator, pools = self.generator, self._pools
        picks = [self._choose(pool, frame) for pool in pools]
        images = torch.cat([p.images[pick] for p, pick in zip(pools, picks, strict=True)]).float()
        masks = torch.cat([p.masks[pick] for p, pick in zip(pools, picks, strict=True)]).float()
        wanted = torch.cat([augment.chance(generator, p.count, p.pasted) for p in pools])
        images, masks = augment.deform(images, masks, generator)
        transplanted = wanted * augment.chance(generator, len(images), 0.4)
        wanted = wanted - transplanted
        places = transplanted.flatten().nonzero().flatten()
        if len(places):
            donors = augment.deform(*self._choose_donors(len(places)), generator)
            images[places], masks[places] = augment.transplant_lesions(
                images[places], masks[places], donors
            )
        images, masks = augment.paste_lesions(images, masks, self._shapes, wanted, generator)
        images = augment.brighten_rims(images, generator)
        images = augment.change_intensity(images, generator)
        images, masks = augment.trim_edge(images, masks, generator)
        return images, masks

    def _choose(self, pool: Pool, frame: tuple[int, int]) -> Tensor:
        """Draw images of a pool; of several candidates those are kept whose brains fit best."""
        drawn = torch.multinomial(
            pool.weights, _CANDIDATES * pool.count, replacement=True, generator=self.generator
        )
        room = torch.tensor(frame, device=drawn.device) + _TOLERANCE
        excess = (pool.sizes[drawn] - room).clamp(min=0).sum(dim=1)
        # Draws are in random order, and the sort keeps it among those that fit alike.
        return drawn[torch.argsort(excess, stable=True)[: pool.count]]

    def _choose_donors(self, count: int) -> tuple[Tensor, Tensor]:
        images, masks = self._donors
        device = self.generator.device
        pick = torch.randint(len(images), (count,), generator=self.generator, device=device)
        return images[pick].float(), masks[pick].float()


def _pools(collections: Collections, device: torch.device) -> list[Pool]:
    def pool(images: Images, count: int, pasted: float, favoured: tuple[str, ...] = ()) -> Pool:
        pixels, masks = _tensors(images, device)
        boxes = brain_boxes(pixels)
        sizes = torch.stack([boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]], dim=1)
        weights = (_weights(images.patients, favoured) * _rarity(images.masks)).to(device)
        return Pool(pixels, masks, weights, sizes, count, pasted)

    return [
        pool(collections.dwi, 6, 0.15),
        pool(_halves(collections.dwi), 1, 0.5),
        pool(collections.volume, 2, 0.4),
        pool(collections.healthy, 1, 0.5),
        pool(collections.lesion_free, 3, 0.45, ("vol01", "vol07")),
        pool(collections.high_b, 1, 0.45),
        pool(collections.flair, 5, 0.1),
        pool(_visible(collections.soop), 3, 0.1),
    ]


def _tensors(images: Images, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixels and masks, float16 (N, 1, H, W)."""
    pixels, masks = (
        torch.from_numpy(array.astype(np.float16)).to(device)[:, None]
        for array in (images.pixels, images.masks)
    )
    return pixels, masks


def _weights(patients: tuple[str, ...], favoured: tuple[str, ...]) -> Tensor:
    """Each patient as often as any other, favoured ones twice as often."""
    slices = Counter(patients)
    return torch.tensor([(2.0 if p in favoured else 1.0) / slices[p] for p in patients])


def _rarity(masks: FloatArray) -> Tensor:
    """Lesions of a few pixels, and of whole territories, more often than others."""
    pixels = (masks > 0.5).sum(axis=(1, 2))
    rare = (pixels > 0) & ((pixels < _TINY) | (pixels > _GIANT))
    return torch.from_numpy(np.where(rare, _RARE_WEIGHT, 1.0))


def _halves(images: Images) -> Images:
    """The halves without lesion, mirrored over the others."""
    pixels, patients = [], []
    for image, mask, patient in zip(images.pixels, images.masks, images.patients, strict=True):
        half = augment.mirror_healthy(torch.from_numpy(image), torch.from_numpy(mask) > _TRACE)
        if half is not None:
            pixels.append(half.numpy())
            patients.append(patient)
    stacked = np.stack(pixels)
    return Images(stacked, np.zeros_like(stacked), tuple(patients))


def _visible(images: Images) -> Images:
    """Those without lesion, and those whose lesion is brighter than tissue.

    What an expert drew on another modality and FLAIR does not show teaches a
    network nothing but to be silent.
    """
    kept = []
    for i, (image, mask) in enumerate(zip(images.pixels, images.masks, strict=True)):
        lesion = image[mask > 0.5]
        if not lesion.size or np.median(lesion) > _VISIBLE * augment.TISSUE:
            kept.append(i)
    return Images(images.pixels[kept], images.masks[kept], tuple(images.patients[i] for i in kept))


def _lesion_shapes(images: Images) -> Tensor:
    masks = (images.masks > 0.5).astype(np.float32)
    return torch.from_numpy(masks[masks.sum(axis=(1, 2)) > _SMALLEST_SHAPE])[:, None]
