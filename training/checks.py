"""How well a network does while it is trained: cheap figures on validation images."""

import numpy as np
import torch
from torch import Generator, Tensor

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.verification.agreement import dice
from network.cnnres import CNNRes
from network.steadiness import steadiness, with_noise
from training.data import Images
from training.logits import logits_of
from training.rounding import eight_bits
from training.views import View, brain_boxes

_BATCH = 16
_THRESHOLDS = (0.3, 0.5, 0.8)


def check(network: CNNRes, images: Images) -> dict[str, float]:
    """How well a network does on images with expert masks, or on some without any lesion.

    Returns
    -------
    dict
        ``dice`` over all pixels and ``slices``, the mean Dice of slices with
        lesion, against the experts; ``found_30``, ``found_50``, ``found_80``,
        pixels above these probabilities in slices without lesion; mean Dice of
        masks with those under noise (``steady``), computed in 8 bits
        (``rounded``), of crops (``cropped``) and of mirrored images (``mirrored``).
    """
    pixels = torch.from_numpy(images.pixels[:, None]).to(next(network.parameters()).device)
    answers = _answers(network, pixels)
    clean, truth = answers > 0.5, images.masks > 0.5
    with eight_bits(network):
        rounded = _answers(network, pixels) > 0.5
    noisy: FloatArray = with_noise(images.pixels)
    others = {
        "steady": _answers(network, torch.from_numpy(noisy[:, None]).to(pixels.device)) > 0.5,
        "rounded": rounded,
        "cropped": _cropped(network, pixels) > 0.5,
        "mirrored": _answers(network, pixels.flip(3))[:, :, ::-1] > 0.5,
    }
    each = [dice(a, b) for a, b in zip(clean, truth, strict=True) if b.any()]
    healthy = answers[~truth.any(axis=(1, 2))]
    figures = {
        "dice": dice(clean, truth),
        "slices": float(np.mean(each)) if each else 1.0,
        **{f"found_{100 * t:.0f}": float((healthy > t).sum()) for t in _THRESHOLDS},
        **{name: steadiness(clean, masks) for name, masks in others.items()},
    }
    return {name: round(value, 4) for name, value in figures.items()}


def _answers(network: CNNRes, pixels: Tensor) -> FloatArray:
    with torch.inference_mode():
        logits = torch.cat([logits_of(network, part) for part in pixels.split(_BATCH)])
    answers: FloatArray = torch.sigmoid(logits)[:, 0].cpu().numpy()
    return answers


def _cropped(network: CNNRes, pixels: Tensor) -> FloatArray:
    """Answers for each image cut to its brain's box, in steps of 32 pixels."""
    boxes = brain_boxes(pixels)
    sizes = torch.stack([boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]], dim=1)
    frames = ((sizes + 31) // 32 * 32).clamp(96, pixels.shape[2])
    answers = np.zeros(pixels[:, 0].shape, np.float32)
    generator = Generator(pixels.device).manual_seed(0)
    for frame in torch.unique(frames, dim=0):
        places = torch.nonzero((frames == frame).all(dim=1)).flatten()
        images = pixels[places]
        view = View.draw(images, (int(frame[0]), int(frame[1])), 0.0, generator)
        found = torch.from_numpy(_answers(network, view.of(images)))[:, None].to(pixels.device)
        height, width = pixels.shape[2:]
        zero = torch.zeros_like(view.top)
        whole = View((height, width), zero, zero, torch.zeros_like(view.mirrored))
        answers[places.cpu().numpy()] = view.as_seen_by(whole, found)[0][:, 0].cpu().numpy()
    return answers
