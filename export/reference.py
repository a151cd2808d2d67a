"""Reference slices: phantoms with what PyTorch makes of them."""

import io

import numpy as np
import torch
from numpy.typing import NDArray

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import VerificationError
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.pipeline.brain import find_brain
from cnnres_infer.pipeline.slices.batches import all_slices
from cnnres_infer.verification.agreement import LEVELS, dice
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


def reference_slices(
    network: CNNRes, spec: ModelSpec, count: int = COUNT
) -> tuple[FloatArray, FloatArray]:
    """Slices of phantoms and PyTorch's float32 probabilities for them.

    A quarter is empty in the network's masks; the others spread evenly over
    the logarithm of the mask's area, so that tiny and large ones are among them.
    Only slices count whose mask bears noise that nobody could see, drawn
    several times: where it does not, the comparison would measure the network's
    own indecision, not the engine that computes it.

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
    probabilities = _computed(network, images)
    masks = spec.mask.apply(probabilities)
    areas = np.count_nonzero(masks, axis=(1, 2, 3))
    draws = [with_noise(images, seed) for seed in range(_DRAWS)]
    steady: set[int] = set()
    candidates = np.arange(len(images))
    while True:
        chosen = candidates[_spread(areas[candidates], count)]
        new = np.setdiff1d(chosen, list(steady))
        if not len(chosen):
            raise VerificationError(
                "the network's masks of synthetic brains change with noise of 1 %, all of them: "
                "no reference slices can be chosen; train it further"
            )
        if not len(new):
            return images[chosen], probabilities[chosen]
        bears = np.ones(len(new), np.bool_)
        for draw in draws:
            again = spec.mask.apply(_computed(network, draw[new]))
            bears &= [dice(a, b) >= _STEADY for a, b in zip(masks[new], again, strict=True)]
        steady.update(new[bears])
        candidates = np.setdiff1d(candidates, new[~bears])


def reference_file(images: FloatArray, probabilities: FloatArray) -> bytes:
    """Both as the content of ``reference.npz``; images as uint8 steps of 1/255."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=np.round(images * LEVELS).astype(np.uint8),
        probabilities=probabilities.astype(np.float32),
    )
    return buffer.getvalue()


def _computed(network: CNNRes, images: FloatArray) -> FloatArray:
    with torch.inference_mode():
        parts = [network(part) for part in torch.from_numpy(images).split(8)]
    output: FloatArray = torch.cat(parts).numpy()
    return output


def _phantom_images(seed: int, spec: ModelSpec) -> FloatArray:
    shape, spacing = _GRIDS[seed % len(_GRIDS)]
    volumes = tuple(
        Volume.from_array(phantom.data, phantom.affine)
        for phantom in (
            make_phantom(seed, shape=shape, spacing=spacing, modality=name)
            for name in spec.modalities[: spec.channels]
        )
    )
    brain = find_brain(volumes[0]).mask
    _, batch = all_slices(volumes, brain, spec.slices)
    return batch.images


def _spread(areas: NDArray[np.int64], count: int) -> list[int]:
    """Indices of a quarter without area, and of areas evenly spread in their logarithm."""
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
