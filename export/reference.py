"""Reference slices of a bundle: slices of phantoms with PyTorch's probabilities for them."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.crops import box_shape, computed
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import VerificationError
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.verification.agreement import LEVELS, dice
from export.slices import slices_of
from network.cnnres import CNNRes
from network.steadiness import with_noise

COUNT = 64
_EMPTY_SHARE = 0.25
_PHANTOMS = 16
_STEADY = 0.97
_DRAWS = 4
_GRIDS = (
    ((112, 112, 36), (2.0, 2.0, 4.0)),
    ((128, 128, 24), (1.8, 1.8, 6.0)),
    ((192, 192, 28), (1.2, 1.2, 5.0)),
)
# Factors for the width and length of heads, with which brains need all sizes of images.
_STRETCHES = ((1.0, 1.0), (1.2, 1.2), (1.4, 1.2), (0.8, 1.3), (1.4, 0.7))


def reference_slices(
    network: CNNRes, spec: ModelSpec, count: int = COUNT
) -> tuple[FloatArray, FloatArray]:
    """Choose slices of phantoms, and compute PyTorch's float32 probabilities for them.

    A quarter of the slices have an empty mask; the others are spread evenly over
    the logarithm of the mask's area, so that there are tiny and large lesions.
    If the network computes images of several sizes, there are slices of each.
    Only steady slices are chosen, whose mask survives several draws of invisible
    noise. On the others a comparison would measure how undecided the network is,
    not how exact the engine.

    Returns
    -------
    images
        (count, C, H, W) in [0, 1], each value a multiple of 1/255.
    probabilities
        (count, 1, H, W).

    Raises
    ------
    VerificationError
        If no slice is steady.
    """
    images = np.concatenate([_phantom_images(seed, spec) for seed in range(_PHANTOMS)])
    images = (np.round(images * LEVELS) / LEVELS).astype(np.float32)
    sides = spec.slices.sides
    shapes = np.array([box_shape(image, sides) for image in images])
    probabilities = _computed(network, images, sides)
    masks = spec.mask.apply(probabilities)
    areas = np.count_nonzero(masks, axis=(1, 2, 3))
    draws = [with_noise(images, seed) for seed in range(_DRAWS)]
    steady: set[int] = set()
    candidates = np.arange(len(images))
    while True:
        chosen = candidates[_spread_over(shapes[candidates], areas[candidates], count)]
        new = np.setdiff1d(chosen, list(steady))
        if not len(chosen):
            raise VerificationError(
                "no reference slices can be chosen: the network's masks of all synthetic brains "
                "change with noise of 1 %; train it further"
            )
        if not len(new):
            return images[chosen], probabilities[chosen]
        survives = _survives(network, masks[new], [draw[new] for draw in draws], spec)
        steady.update(new[survives])
        candidates = np.setdiff1d(candidates, new[~survives])


def reference_file(images: FloatArray, probabilities: FloatArray) -> bytes:
    """Content of ``reference.npz``: the images as uint8 multiples of 1/255, the probabilities."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=np.round(images * LEVELS).astype(np.uint8),
        probabilities=probabilities.astype(np.float32),
    )
    return buffer.getvalue()


def _survives(
    network: CNNRes, masks: BoolArray, draws: list[FloatArray], spec: ModelSpec
) -> BoolArray:
    """Whether each mask stays nearly the same on every draw of the noisy images."""
    survives = np.ones(len(masks), np.bool_)
    for images in draws:
        again = spec.mask.apply(_computed(network, images, spec.slices.sides))
        survives &= [dice(a, b) >= _STEADY for a, b in zip(masks, again, strict=True)]
    return survives


def _computed(network: CNNRes, images: FloatArray, sides: Sequence[int]) -> FloatArray:
    def run(batch: FloatArray) -> FloatArray:
        output: FloatArray = network(torch.from_numpy(batch)).numpy()
        return output

    with torch.inference_mode():
        return computed(run, images, sides, batch_size=8)


def _phantom_images(seed: int, spec: ModelSpec) -> FloatArray:
    shape, spacing = _GRIDS[seed % len(_GRIDS)]
    stretch = _STRETCHES[seed % len(_STRETCHES) if len(spec.slices.sides) > 1 else 0]

    def volume(modality: Modality) -> Volume:
        phantom = make_phantom(seed, shape=shape, spacing=spacing, modality=modality)
        return Volume.from_array(phantom.data, phantom.affine @ np.diag([*stretch, 1.0, 1.0]))

    if spec.channels == 2:
        case = Case(Modality.DWI, volume(Modality.DWI), volume(Modality.FLAIR))
    else:
        case = Case(spec.modalities[0], volume(spec.modalities[0]))
    _, batch = slices_of(case, spec)
    return batch.images


def _spread_over(
    shapes: NDArray[np.int64], areas: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Indices of slices, as many of each shape (N, 2) as there are, spread by area within each."""
    _, kinds = np.unique(shapes, axis=0, return_inverse=True)
    alike = [np.flatnonzero(kinds == kind) for kind in range(kinds.max(initial=-1) + 1)]
    chosen: list[NDArray[np.int64]] = []
    # Rare shapes first: what they leave is for the others.
    for left, of_shape in enumerate(sorted(alike, key=len), start=-len(alike)):
        share = (count - sum(map(len, chosen))) // -left
        chosen.append(of_shape[_spread(areas[of_shape], share)])
    return np.concatenate(chosen) if chosen else np.empty(0, np.int64)


def _spread(areas: NDArray[np.int64], count: int) -> list[int]:
    """Indices of slices: a quarter without lesion, the others spread over the logarithm of area."""
    empty, lesion = list(np.flatnonzero(areas == 0)), list(np.flatnonzero(areas))
    bare = min(len(empty), max(int(count * _EMPTY_SHARE), count - len(lesion)))
    chosen = [int(empty[i]) for i in np.linspace(0, len(empty) - 1, bare).astype(int)]
    if lesion:
        logarithms = np.log(areas[lesion])
        wanted = min(count - bare, len(lesion))
        for target in np.linspace(logarithms.min(), logarithms.max(), wanted):
            nearest = min(lesion, key=lambda i: abs(float(np.log(areas[i])) - target))
            lesion.remove(nearest)
            chosen.append(int(nearest))
    return chosen
