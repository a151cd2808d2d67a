"""What training minimises."""

import torch
from torch import Tensor
from torch.nn import functional

# Pixels of false lesion that cost half of what a whole false hemisphere does.
_FALSE_PIXELS = 20.0


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice of the batch, of its images with lesion, false lesions in the others, cross-entropy.

    Dice over the whole batch punishes what is found on healthy slices; the
    mean of the images' own keeps small lesions from drowning beside large ones,
    and a term of its own small false lesions.

    Parameters
    ----------
    logits, masks
        (N, 1, H, W); masks in [0, 1].
    """
    axes = (1, 2, 3)
    probabilities = torch.sigmoid(logits)
    overlap, found, true = (x.sum(axes) for x in (probabilities * masks, probabilities, masks))
    dice = 1 - (2 * overlap.sum() + 1) / (found.sum() + true.sum() + 1)
    entropy = functional.binary_cross_entropy_with_logits(logits, masks)
    with_lesion = (true > 1).float()
    each = 1 - (2 * overlap + 1) / (found + true + 1)
    image_dice = (each * with_lesion).sum() / with_lesion.sum().clamp(min=1)
    healthy = 1 - with_lesion
    false = (found / (found + _FALSE_PIXELS) * healthy).sum() / healthy.sum().clamp(min=1)
    return dice + image_dice + 0.15 * false + 5 * entropy


def soft_difference(first: Tensor, second: Tensor) -> Tensor:
    """One minus the soft Dice of each image's two answers: a spot counts as much as a territory."""
    axes = (1, 2, 3)
    overlap = 2 * (first * second).sum(axes) + 1
    return (1 - overlap / ((first**2).sum(axes) + (second**2).sum(axes) + 1)).mean()
