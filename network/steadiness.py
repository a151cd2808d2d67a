"""Robustness of masks to imperceptible noise in the images."""

import numpy as np

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.verification.agreement import dice

NOISE_FRACTION = 0.01


def with_noise(pixels: FloatArray, seed: int = 0) -> FloatArray:
    """Add Gaussian noise of 1 % of the images' standard deviation to the brain.

    Parameters
    ----------
    pixels
        float32, any shape: images in [0, 1], zero outside the brain.
    seed
        Seed of the noise.
    """
    noise = np.random.default_rng(seed).normal(0, 1, pixels.shape).astype(np.float32)
    noisy: FloatArray = pixels + np.float32(NOISE_FRACTION) * pixels.std() * noise * (pixels > 0)
    return noisy.clip(0, 1)


def steadiness(masks: BoolArray, again: BoolArray) -> float:
    """Mean Dice of masks with and without noise, over images in which either has lesion.

    Parameters
    ----------
    masks, again
        bool (N, H, W): masks of the images, and of the same images `with_noise`.
    """
    pairs = [(a, b) for a, b in zip(masks, again, strict=True) if a.any() or b.any()]
    return float(np.mean([dice(a, b) for a, b in pairs])) if pairs else 1.0
