"""The training loop."""

import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cnnres_infer.host.atomic import check_free
from network.cnnres import PUBLISHED, CNNRes, Widths
from training.batches import Batches, Pair
from training.checks import check
from training.data import Collections, Images
from training.logits import logits_of
from training.losses import segmentation_loss, soft_difference
from training.mirror import Mirror
from training.regularisation import dropped
from training.rounding import Scheme, eight_bits

_EMA_WARMUP = 10


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    steps
        Optimiser steps.
    batch
        How many times as large as `training.batches` lays down its batches are.
    rounded_from
        Share of the steps after which each image is seen a second time, in
        another frame and computed in 8 bits. Steps before it take half as long.
    dropout
        Share of the channels behind each residual block that is left out of a step.
    learning_rate
        Peak, reached after 3 % of the steps; falls to zero as half a cosine.
    averaging
        Share of the average of weights that stays in each step.
    consistency
        Weight of the difference between the answers for two views.
    minutes
        Time limit: the learning rate follows the clock where it is ahead of the
        steps, so that a busy machine ends with a finished network too.
    """

    steps: int = 5000
    seed: int = 0
    batch: int = 1
    learning_rate: float = 5e-4
    weight_decay: float = 0.02
    averaging: float = 0.998
    rounded_from: float = 0.5
    consistency: float = 1.0
    dropout: float = 0.0
    minutes: float = math.inf
    check_every: int = 500
    widths: Widths = PUBLISHED


def train(
    collections: Collections,
    validation: dict[str, Images],
    recipe: Recipe,
    out: Path,
    device: str = "cpu",
    start: CNNRes | None = None,
    mirror: Mirror | None = None,
) -> None:
    """Train and write a checkpoint of the averaged weights at each check.

    Parameters
    ----------
    validation
        Images to check with, by name.
    out
        Folder for ``step-NNNNN.safetensors`` and ``log.jsonl``.
    device
        What PyTorch computes on.
    start
        Network to go on with, whose batch norms stay as they are; a new one by
        default.
    mirror
        Keeps a symmetric network symmetric.

    Raises
    ------
    OutputExistsError
        If there is the log of another run.
    """
    check_free([out / "log.jsonl"], overwrite=False)
    torch.manual_seed(recipe.seed)
    batches = Batches(collections, recipe.seed, torch.device(device), recipe.batch)
    mirror = None if mirror is None else mirror.on(torch.device(device))
    network = CNNRes(widths=recipe.widths) if start is None else copy.deepcopy(start)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).eval()
    # Half brains and frames of one size in a batch would pull a trained network's statistics about.
    network.train(start is None)
    optimiser = torch.optim.AdamW(
        network.parameters(), weight_decay=recipe.weight_decay, fused=True
    )
    out.mkdir(parents=True, exist_ok=True)
    losses, started, progress = [], time.monotonic(), 0.0
    step = 0
    while progress < 1:
        step += 1
        passed = (time.monotonic() - started) / 60 / recipe.minutes
        progress = min(1.0, max(step / recipe.steps, passed))
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(recipe, progress)
        with dropped(network, recipe.dropout):
            loss = _pair_loss(network, batches.draw(), recipe, step, progress)
        optimiser.zero_grad()
        loss.backward()
        if mirror is not None:
            mirror.tie_gradients(network)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        _average(average, network, min(recipe.averaging, (step + 1) / (step + _EMA_WARMUP)))
        losses.append(loss.detach())
        if step % recipe.check_every == 0 or progress == 1:
            if mirror is not None:
                # Rounding pulls tied weights apart, a little with each step.
                mirror.tie(network)
                mirror.tie(average)
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


def _pair_loss(network: CNNRes, pair: Pair, recipe: Recipe, step: int, progress: float) -> Tensor:
    """Loss of a batch; later of both views of it, and the difference of their answers."""
    first = logits_of(network, pair.images)
    loss = segmentation_loss(first, pair.masks)
    if progress <= recipe.rounded_from:
        return loss
    with eight_bits(network, Scheme.CPU if step % 2 else Scheme.TENSORRT):
        second = logits_of(network, pair.copies)
    moved, known = pair.second.as_seen_by(pair.first, torch.sigmoid(second))
    difference = soft_difference(torch.sigmoid(first) * known, moved)
    return loss + segmentation_loss(second, pair.copied_masks) + recipe.consistency * difference


def _learning_rate(recipe: Recipe, progress: float) -> float:
    warmup = 0.03
    falling = max(0.0, (progress - warmup) / (1 - warmup))
    cosine = (1 + math.cos(math.pi * falling)) / 2
    return recipe.learning_rate * min(1.0, progress / warmup) * cosine


def _average(average: CNNRes, network: CNNRes, decay: float) -> None:
    pairs = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
    floats = [pair for pair in pairs if pair[0].dtype.is_floating_point]
    get_ema_multi_avg_fn(decay)([kept for kept, _ in floats], [new for _, new in floats], None)
