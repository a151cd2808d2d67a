"""The training loop."""

import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Generator, Tensor
from torch.nn import functional

from cnnres_infer.atomic import check_free
from cnnres_infer.verify import dice
from training import augment
from training.data import Collections, Images
from training.network import CNNRes
from training.steadiness import shaken, steadiness

_EMA_WARMUP = 10


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    steps
        Optimiser steps.
    consistent_from
        Share of the steps after which each image comes twice, the second time
        jittered by what nobody could see, and both must get the same answer.
    learning_rate
        Peak, reached after 3 % of the steps; falls to zero as half a cosine.
    """

    steps: int = 4200
    seed: int = 0
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    averaging: float = 0.998
    consistent_from: float = 0.7
    consistency: float = 4.0
    check_every: int = 250


@dataclass(frozen=True)
class Pool:
    """Images to draw from: how many in a batch, how many of them get lesions pasted in."""

    images: Tensor
    masks: Tensor
    count: int
    pasted: float


def train(collections: Collections, volumes: dict[str, Images], recipe: Recipe, out: Path) -> None:
    """Train and write a checkpoint of the averaged weights at each check.

    Parameters
    ----------
    volumes
        Whole validation volumes by name.
    out
        Folder for ``step-NNNNN.safetensors`` and ``log.jsonl``.

    Raises
    ------
    OutputExistsError
        If there is the log of another run.
    """
    check_free([out / "log.jsonl"], overwrite=False)
    torch.manual_seed(recipe.seed)
    generator = Generator().manual_seed(recipe.seed)
    network: CNNRes = CNNRes().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).eval()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    pools = _pools(collections)
    shapes = _lesion_shapes(collections.soop)
    validation = {"slices": collections.validation[0], **volumes}
    out.mkdir(parents=True, exist_ok=True)
    losses, started = [], time.monotonic()
    for step in range(1, recipe.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(recipe, step)
        images, masks = _batch(pools, shapes, generator)
        consistent = step > recipe.consistent_from * recipe.steps
        if consistent:
            keep = torch.randperm(len(images), generator=generator)[: len(images) * 2 // 3]
            images, masks = images[keep], masks[keep]
            images = torch.cat([images, augment.jitter(images, generator)])
            masks = torch.cat([masks, masks])
        loss = _loss(network, images, masks, recipe.consistency if consistent else 0.0)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        _average(average, network, min(recipe.averaging, (step + 1) / (step + _EMA_WARMUP)))
        losses.append(loss.item())
        if step % recipe.check_every == 0 or step == recipe.steps:
            record: dict[str, object] = {
                "step": step,
                "seconds": round(time.monotonic() - started),
                "loss": round(float(np.mean(losses)), 4),
                **{name: check(average, images) for name, images in validation.items()},
            }
            losses.clear()
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            metadata = {"recipe": json.dumps(asdict(recipe)), "step": str(step)}
            tensors = {key: value.contiguous() for key, value in average.state_dict().items()}
            save_file(tensors, out / f"step-{step:05d}.safetensors", metadata)


def check(network: CNNRes, images: Images) -> dict[str, float]:
    """Dice over all pixels, mean Dice of the lesion slices, and steadiness under noise."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        clean, again = (
            torch.cat([network.logits(x).float() for x in torch.from_numpy(p[:, None]).split(16)])
            for p in (images.pixels, shaken(images.pixels))
        )
    predicted, truth = clean[:, 0].numpy() > 0, images.masks > 0.5
    each = [dice(a, b) for a, b in zip(predicted, truth, strict=True) if b.any()]
    return {
        "dice": round(dice(predicted, truth), 4),
        "slices": round(float(np.mean(each)), 4) if each else 1.0,
        "steady": round(steadiness(predicted, again[:, 0].numpy() > 0), 4),
    }


def _pools(collections: Collections) -> list[Pool]:
    def pool(images: Images, count: int, pasted: float) -> Pool:
        pixels, masks = torch.from_numpy(images.pixels), torch.from_numpy(images.masks)
        return Pool(pixels[:, None], masks[:, None], count, pasted)

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


def _lesion_shapes(images: Images, smallest: int = 20) -> Tensor:
    masks = (images.masks > 0.5).astype(np.float32)
    return torch.from_numpy(masks[masks.sum(axis=(1, 2)) > smallest])[:, None]


def _batch(pools: list[Pool], shapes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    picks = [torch.randint(len(p.images), (p.count,), generator=generator) for p in pools]
    images = torch.cat([p.images[pick] for p, pick in zip(pools, picks, strict=True)])
    masks = torch.cat([p.masks[pick] for p, pick in zip(pools, picks, strict=True)])
    wanted = torch.cat([augment.chance(generator, p.count, p.pasted) for p in pools])
    images, masks = augment.deform(images, masks, generator)
    images = augment.unsaturate(images, generator)
    images, masks = augment.paste_lesions(images, masks, shapes, wanted, generator)
    images = augment.brighten_rims(images, generator)
    return augment.change_intensity(images, generator), masks


def _loss(network: CNNRes, images: Tensor, masks: Tensor, consistency: float) -> Tensor:
    """Dice of the batch and of its images with lesion, cross-entropy, difference of the copies.

    Dice over the whole batch punishes what is found on healthy slices; the
    mean of the images' own keeps small lesions from drowning beside large ones.
    """
    with torch.autocast("cpu", torch.bfloat16):
        logits = network.logits(images.to(memory_format=torch.channels_last))
    logits = logits.float()
    probabilities = torch.sigmoid(logits)
    overlap = (probabilities * masks).sum()
    dice = 1 - (2 * overlap + 1) / (probabilities.sum() + masks.sum() + 1)
    entropy = functional.binary_cross_entropy_with_logits(logits, masks)
    each = (2 * (probabilities * masks).sum(dim=(1, 2, 3)) + 1) / (
        (probabilities + masks).sum(dim=(1, 2, 3)) + 1
    )
    with_lesion = masks.sum(dim=(1, 2, 3)) > 1
    image_dice = 1 - each[with_lesion].mean() if with_lesion.any() else torch.zeros(())
    loss = dice + 0.5 * image_dice + 5 * entropy
    if consistency:
        first, second = probabilities.chunk(2)
        spread = ((first - second) ** 2).sum() / (masks.sum() / 2 + 1)
        loss = loss + consistency * spread
    return loss


def _learning_rate(recipe: Recipe, step: int) -> float:
    warmup = 0.03 * recipe.steps
    progress = max(0.0, (step - warmup) / (recipe.steps - warmup))
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return recipe.learning_rate * min(1.0, step / warmup) * cosine


def _average(average: CNNRes, network: CNNRes, decay: float) -> None:
    with torch.no_grad():
        for kept, new in zip(
            average.state_dict().values(), network.state_dict().values(), strict=True
        ):
            if kept.dtype.is_floating_point:
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)
