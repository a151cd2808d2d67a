"""Quantisation-aware fine-tuning: the INT8 network learns to reproduce the float network."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from calibration.fake_quant import TorchGraph
from calibration.plan import Plan
from training.losses import soft_difference

_WARMUP = 20


@dataclass(frozen=True)
class Tuning:
    """How to fine-tune.

    Attributes
    ----------
    learning_rate
        Peak learning rate of weights and biases, which falls to zero along half
        a cosine. A rate ten times as high leaves less agreement than there was
        before fine-tuning.
    scale_rate
        Peak learning rate of the logarithms of the scales; a step changes a
        scale by at most about this share.
    averaging
        Decay of the exponential moving average of weights and scales, which is
        the result.
    margin
        Logits of larger magnitude need not agree exactly, being far from any
        threshold.
    """

    steps: int = 300
    learning_rate: float = 2e-6
    scale_rate: float = 2e-4
    averaging: float = 0.98
    margin: float = 6.0
    seed: int = 0


def finetune(
    model: onnx.ModelProto,
    plan: Plan,
    teacher: Callable[[Tensor], Tensor],
    draw: Callable[[], Tensor],
    tuning: Tuning,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[onnx.ModelProto, Plan]:
    """Fine-tune a planned network by distillation.

    Parameters
    ----------
    teacher
        The float network: from images to probabilities.
    draw
        Returns the next batch of images (N, C, H, W), on the device to compute on.
    report
        Called with the step and its loss after each step.

    Returns
    -------
    model
        The network with the learned float weights.
    plan
        The plan with the learned scales.
    """
    images = draw()
    student = TorchGraph(model, plan).to(images.device)
    average = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(tuning.averaging))
    optimiser = torch.optim.Adam(
        [
            {"params": student.constants.parameters(), "peak": tuning.learning_rate},
            {"params": student.log_scales.parameters(), "peak": tuning.scale_rate},
        ],
        betas=(0.9, 0.99),
    )
    for step in range(1, tuning.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * _share(step, tuning.steps)
        with torch.no_grad():
            expected = teacher(images)
        loss = disagreement(student(images), expected, tuning.margin)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update_parameters(student)
        report(step, loss.item())
        images = draw()
    learned = average.module.cpu()
    assert isinstance(learned, TorchGraph)
    return learned.learned_model(), learned.learned_plan()


def disagreement(output: Tensor, expected: Tensor, margin: float) -> Tensor:
    """Loss of probabilities (N, 1, H, W) against those expected.

    The mean squared difference of the logits, clipped to the margin, over the
    pixels where either logit is above -margin; plus one minus the soft Dice of
    each image, which is close to zero where both are empty.
    """
    logits, wanted = (_logit(p).clamp(-margin, margin) for p in (output, expected))
    near = ((logits > -margin) | (wanted > -margin)).float()
    difference = (((logits - wanted) ** 2) * near).sum() / near.sum().clamp(min=1)
    return difference + soft_difference(output, expected)


def _logit(probabilities: Tensor) -> Tensor:
    return torch.logit(probabilities, eps=1e-6)


def _share(step: int, steps: int) -> float:
    return min(1.0, step / _WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
