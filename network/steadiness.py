"""How little masks change under noise that nobody could see."""

import numpy as np

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.verification.agreement import dice

NOISE_SHARE = 0.01


def with_noise(pixels: FloatArray, seed: int = 0) -> FloatArray:
    """Images with noise of 1 % of their standard deviation, in the brain alone."""
    noise = np.random.default_rng(seed).normal(0, 1, pixels.shape).astype(np.float32)
    moved: FloatArray = pixels + np.float32(NOISE_SHARE) * pixels.std() * noise * (pixels > 0)
    return moved.clip(0, 1)


def steadiness(masks: BoolArray, again: BoolArray) -> float:
    """Mean Dice of masks (N, H, W) with those of with_noise images, where either is not empty."""
    pairs = [(a, b) for a, b in zip(masks, again, strict=True) if a.any() or b.any()]
    return float(np.mean([dice(a, b) for a, b in pairs])) if pairs else 1.0
