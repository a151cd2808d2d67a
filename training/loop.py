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
from torch import Tensor
from torch.nn import functional

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.host.atomic import check_free
from cnnres_infer.verification.agreement import dice
from network.cnnres import PUBLISHED, CNNRes, Widths
from network.steadiness import steadiness, with_noise
from training.batches import Batches
from training.data import Collections, Images
from training.rounding import eight_bits

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
        jittered by what nobody could see and computed in 8 bits, and both must
        get the same answer.
    learning_rate
        Peak, reached after 3 % of the steps; falls to zero as half a cosine.
    averaging
        Share of the average of weights that stays in each step.
    """

    steps: int = 7500
    seed: int = 0
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    averaging: float = 0.9995
    consistent_from: float = 0.4
    consistency: float = 2.0
    check_every: int = 500
    widths: Widths = PUBLISHED


def train(
    collections: Collections,
    volumes: dict[str, Images],
    recipe: Recipe,
    out: Path,
    device: str = "cpu",
) -> None:
    """Train and write a checkpoint of the averaged weights at each check.

    Parameters
    ----------
    volumes
        Whole validation volumes by name.
    out
        Folder for ``step-NNNNN.safetensors`` and ``log.jsonl``.
    device
        What PyTorch computes on.

    Raises
    ------
    OutputExistsError
        If there is the log of another run.
    """
    check_free([out / "log.jsonl"], overwrite=False)
    torch.manual_seed(recipe.seed)
    batches = Batches(collections, recipe.seed, torch.device(device))
    network: CNNRes = CNNRes(widths=recipe.widths).to(  # type: ignore[call-overload]
        device, memory_format=torch.channels_last
    )
    average = copy.deepcopy(network).eval()
    optimiser = torch.optim.AdamW(
        network.parameters(), weight_decay=recipe.weight_decay, fused=True
    )
    validation = {"slices": collections.validation[0], **volumes}
    out.mkdir(parents=True, exist_ok=True)
    losses, started = [], time.monotonic()
    for step in range(1, recipe.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(recipe, step)
        if step > recipe.consistent_from * recipe.steps:
            loss = _paired_loss(network, *batches.draw_pairs(), recipe.consistency)
        else:
            images, masks = batches.draw()
            loss = _loss(_logits(network, images), masks)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        _average(average, network, min(recipe.averaging, (step + 1) / (step + _EMA_WARMUP)))
        losses.append(loss.detach())
        if step % recipe.check_every == 0 or step == recipe.steps:
            record: dict[str, object] = {
                "step": step,
                "seconds": round(time.monotonic() - started),
                "loss": round(float(torch.stack(losses).mean()), 4),
                **{name: check(average, images) for name, images in validation.items()},
            }
            losses.clear()
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            metadata = {"recipe": json.dumps(asdict(recipe)), "step": str(step)}
            tensors = {key: value.contiguous() for key, value in average.state_dict().items()}
            save_file(tensors, out / f"step-{step:05d}.safetensors", metadata)


def check(network: CNNRes, images: Images) -> dict[str, float]:
    """How well a network does.

    Returns
    -------
    dict
        ``dice`` over all pixels and ``slices``, the mean Dice of slices with
        lesion, against the experts; ``steady``, mean Dice of the masks with
        those under noise, and ``rounded``, with those computed in 8 bits.
    """
    clean, again = _masks(network, images.pixels), _masks(network, with_noise(images.pixels))
    with eight_bits(network):
        rounded = _masks(network, images.pixels)
    truth = images.masks > 0.5
    each = [dice(a, b) for a, b in zip(clean, truth, strict=True) if b.any()]
    return {
        "dice": round(dice(clean, truth), 4),
        "slices": round(float(np.mean(each)), 4) if each else 1.0,
        "steady": round(steadiness(clean, again), 4),
        "rounded": round(steadiness(clean, rounded), 4),
    }


def _masks(network: CNNRes, pixels: FloatArray) -> BoolArray:
    images = torch.from_numpy(pixels[:, None]).to(next(network.parameters()).device)
    with torch.no_grad():
        logits = torch.cat([_logits(network, part) for part in images.split(16)])
    masks: BoolArray = logits[:, 0].cpu().numpy() > 0
    return masks


def _logits(network: CNNRes, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16):
        logits = network.logits(images.to(memory_format=torch.channels_last))
    return logits.float()


def _loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice of the batch and of its images with lesion, and cross-entropy.

    Dice over the whole batch punishes what is found on healthy slices; the
    mean of the images' own keeps small lesions from drowning beside large ones.
    """
    probabilities = torch.sigmoid(logits)
    overlap = (probabilities * masks).sum()
    dice = 1 - (2 * overlap + 1) / (probabilities.sum() + masks.sum() + 1)
    entropy = functional.binary_cross_entropy_with_logits(logits, masks)
    each = (2 * (probabilities * masks).sum(dim=(1, 2, 3)) + 1) / (
        (probabilities + masks).sum(dim=(1, 2, 3)) + 1
    )
    with_lesion = (masks.sum(dim=(1, 2, 3)) > 1).float()
    image_dice = ((1 - each) * with_lesion).sum() / with_lesion.sum().clamp(min=1)
    return dice + 0.5 * image_dice + 5 * entropy


def _paired_loss(
    network: CNNRes, images: Tensor, copies: Tensor, masks: Tensor, consistency: float
) -> Tensor:
    """Loss of images and of their copies computed in 8 bits, and the answers' difference."""
    first = _logits(network, images)
    with eight_bits(network):
        second = _logits(network, copies)
    supervised = _loss(torch.cat([first, second]), torch.cat([masks, masks]))
    return supervised + consistency * soft_difference(torch.sigmoid(first), torch.sigmoid(second))


def soft_difference(first: Tensor, second: Tensor) -> Tensor:
    """One minus the soft Dice of each image's two answers: a spot counts as much as a territory."""
    axes = (1, 2, 3)
    overlap = 2 * (first * second).sum(axes) + 1
    return (1 - overlap / ((first**2).sum(axes) + (second**2).sum(axes) + 1)).mean()


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
