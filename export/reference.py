"""Reference slices: phantoms with what PyTorch makes of them."""

import io

import numpy as np
import torch
from numpy.typing import NDArray

from cnnres_infer.brain import find_brain
from cnnres_infer.phantom import make_phantom
from cnnres_infer.slices import SliceGeometry, SliceSpec, to_batches
from cnnres_infer.verify import LEVELS
from cnnres_infer.volume import FloatArray
from training.network import CNNRes

COUNT = 64
_EMPTY_SHARE = 0.25
_SHAPES = (
    ((112, 112, 36), (2.0, 2.0, 4.0)),
    ((128, 128, 24), (1.8, 1.8, 6.0)),
    ((192, 192, 28), (1.2, 1.2, 5.0)),
)


def reference_images(spec: SliceSpec, channels: int, count: int = COUNT) -> FloatArray:
    """Slices of phantoms of several shapes, in 8-bit steps.

    A quarter has no lesion; the others spread evenly over lesion area, so that
    tiny, large and multiple lesions are all among them.

    Returns
    -------
    float32 (count, channels, size, size) in [0, 1], each a multiple of 1/255.
    """
    images: list[FloatArray] = []
    areas: list[int] = []
    seed = 0
    while sum(area > 0 for area in areas) < 2 * count or len(areas) < 4 * count:
        shape, spacing = _SHAPES[seed % len(_SHAPES)]
        modalities = ("dwi", "flair")[:channels]
        phantoms = [
            make_phantom(seed, shape=shape, spacing=spacing, modality=name) for name in modalities
        ]
        brain = find_brain(phantoms[0].volume).mask
        geometry = SliceGeometry.of(phantoms[0].volume.grid, brain, spec)
        volumes = tuple(phantom.volume for phantom in phantoms)
        truth = geometry.oriented(phantoms[0].truth)
        for batch in to_batches(volumes, brain, geometry, spec, shape[2]):
            images.extend(batch.images)
            areas.extend(int(n) for n in truth[:, :, batch.z].sum(axis=(0, 1)))
        seed += 1
    chosen = _spread(np.array(areas), count)
    steps = np.round(np.stack([images[i] for i in chosen]) * LEVELS)
    return np.asarray(steps / np.float32(LEVELS), np.float32)


def reference_probabilities(network: CNNRes, images: FloatArray) -> FloatArray:
    """PyTorch's float32 probabilities (N, 1, H, W) for images (N, C, H, W)."""
    with torch.inference_mode():
        parts = [network(part) for part in torch.from_numpy(images).split(8)]
    return torch.cat(parts).numpy()


def reference_file(images: FloatArray, probabilities: FloatArray) -> bytes:
    """Both as the content of ``reference.npz``; images as uint8 steps of 1/255."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=np.round(images * LEVELS).astype(np.uint8),
        probabilities=probabilities.astype(np.float32),
    )
    return buffer.getvalue()


def _spread(areas: NDArray[np.int64], count: int) -> list[int]:
    empty, lesion = np.flatnonzero(areas == 0), np.flatnonzero(areas)
    lesion = lesion[np.argsort(areas[lesion], kind="stable")]
    bare = int(count * _EMPTY_SHARE)
    picks = [
        pool[np.linspace(0, len(pool) - 1, n).astype(int)]
        for pool, n in ((empty, bare), (lesion, count - bare))
    ]
    return [int(i) for i in np.concatenate(picks)]
