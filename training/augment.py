"""Random changes to training images: where they lie, what is in them, how bright they are.

All work on batches (N, 1, H, W) of images in [0, 1] with tissue near 0.5, and
draw from one `torch.Generator`, so that a seed gives the same images again, on
whose device they compute.
"""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

TISSUE = 0.5
_BRAIN = 0.01
# The images' 1.25 mm over 3.5 mm, the coarsest pixels.
_COARSEST = 0.36
# Pixels of a cell in which shading is imitated.
_COARSE = 8
# Blobs of a simulated lesion: how likely each is, and its radii in pixels.
_BLOBS = (
    (1.0, (1.2, 11.0)),
    (0.6, (1.0, 3.0)),
    (0.5, (0.8, 2.0)),
    (0.3, (1.2, 11.0)),
)
_TERRITORY = (0.05, (14.0, 45.0))
# How much brighter than tissue lesions are, and those of so many pixels at least: what is
# fainter would be anatomy that the network learns to mark in healthy brains.
_GAIN = (0.35, 1.3)
_LARGE, _LARGE_GAIN = 250, 0.8


def uniform(generator: Generator, count: int, low: float, high: float) -> Tensor:
    """Draw (N, 1, 1, 1) values, one for each image."""
    return (
        torch.rand(count, 1, 1, 1, generator=generator, device=generator.device) * (high - low)
        + low
    )


def chance(generator: Generator, count: int, probability: float) -> Tensor:
    """Draw (N, 1, 1, 1) zeros and ones, one for each image."""
    return (uniform(generator, count, 0, 1) < probability).float()


def smooth_field(generator: Generator, count: int, size: int, cells: int) -> Tensor:
    """Smooth noise (N, 1, size, size) of unit variance at its `cells` x `cells` nodes."""
    nodes = torch.randn(count, 1, cells, cells, generator=generator, device=generator.device)
    return functional.interpolate(nodes, size=(size, size), mode="bicubic", align_corners=True)


def deform(images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Flip left-right, rotate, scale, shift and bend."""
    count, _, size, _ = images.shape
    angle = uniform(generator, count, -0.26, 0.26).view(-1)
    scale = uniform(generator, count, 0.87, 1.18).view(-1)
    stretch = uniform(generator, count, 0.94, 1.06).view(-1)
    flip = 1 - 2 * chance(generator, count, 0.5).view(-1)
    shift = (torch.rand(count, 2, generator=generator, device=generator.device) - 0.5) * 0.12
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [
        torch.stack([scale * stretch * cos * flip, -scale * sin * flip, shift[:, 0]], dim=1),
        torch.stack([scale * stretch * sin, scale * cos, shift[:, 1]], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), [count, 1, size, size], False)
    bend = torch.cat([smooth_field(generator, count, size, 6) for _ in range(2)], dim=1)
    grid = grid + bend.permute(0, 2, 3, 1) * uniform(generator, count, 0.0, 0.022)
    both = functional.grid_sample(torch.cat([images, masks], dim=1), grid, align_corners=False)
    return both[:, :1], both[:, 1:]


def blobs(generator: Generator, count: int, size: int, radius: tuple[float, float]) -> Tensor:
    """One irregular blob in each of (N, 1, size, size), soft-edged, in [0, 1].

    A circle whose radius (pixels, log-uniform) varies with the angle by four
    random harmonics.
    """
    axis = torch.arange(size, dtype=torch.float32, device=generator.device)
    low, high = math.log(radius[0]), math.log(radius[1])
    radii = torch.exp(uniform(generator, count, low, high))
    row = axis.view(1, 1, -1, 1) - uniform(generator, count, 0.15, 0.85) * size
    column = axis.view(1, 1, 1, -1) - uniform(generator, count, 0.2, 0.8) * size
    row = row * uniform(generator, count, 0.6, 1.7)
    angle = torch.atan2(row, column)
    wobble = torch.ones_like(angle)
    for harmonic in range(2, 6):
        phase = uniform(generator, count, 0, 2 * math.pi)
        depth = uniform(generator, count, 0.0, 0.45 / math.sqrt(harmonic))
        wobble = wobble + depth * torch.cos(harmonic * angle + phase)
    distance = torch.sqrt(row**2 + column**2)
    edge = uniform(generator, count, 0.7, 1.6)
    return torch.sigmoid((radii * wobble.clamp(0.3) - distance) / edge * 2)


def paste_lesions(
    images: Tensor, masks: Tensor, shapes: Tensor, wanted: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Add bright lesions: up to five blobs, or the shape of a real lesion.

    Parameters
    ----------
    shapes
        (K, 1, H, W) masks of real lesions to choose from.
    wanted
        (N, 1, 1, 1): 1 for images that are to get lesions.
    """
    count, _, size, _ = images.shape
    lesion = torch.zeros_like(images)
    for probability, radii in _BLOBS:
        present = chance(generator, count, probability)
        lesion = torch.maximum(lesion, present * blobs(generator, count, size, radii))
    territory = chance(generator, count, _TERRITORY[0])
    lesion = torch.maximum(lesion, territory * blobs(generator, count, size, _TERRITORY[1]))
    pick = torch.randint(len(shapes), (count,), generator=generator, device=generator.device)
    real = chance(generator, count, 0.3)
    lesion = torch.where(real > 0, functional.avg_pool2d(shapes[pick], 3, 1, 1), lesion)
    lesion = lesion * wanted * (images > _BRAIN)
    gain = uniform(generator, count, *_GAIN)
    large = lesion.sum(dim=(1, 2, 3), keepdim=True) > _LARGE
    gain = torch.where(large, gain.clamp(min=_LARGE_GAIN), gain)
    texture = 1 + 0.25 * smooth_field(generator, count, size, 24)
    grown = images * (1 + gain * lesion * texture.clamp(0.3))
    floor = TISSUE * (1 + 0.6 * gain) * lesion
    lit = torch.where(lesion > 0.5, torch.maximum(grown, 0.5 * (grown + floor)), grown)
    lit = _as_if_corrected(images, lit, generator)
    return lit, torch.maximum(masks, (lesion > 0.5).float())


def _as_if_corrected(before: Tensor, after: Tensor, generator: Generator) -> Tensor:
    """What shading correction and normalisation would have made of lesions that came after them.

    They take some of a large lesion for shading, and darken what is around it.
    """
    count, _, size, _ = after.shape
    brain = (before > _BRAIN).float()
    ratio = torch.log(after.clamp(min=_BRAIN) / before.clamp(min=_BRAIN)) * brain
    field, weight = (functional.avg_pool2d(x, _COARSE) for x in (ratio, brain))
    for _ in range(3):
        field, weight = (functional.avg_pool2d(x, 3, 1, 1) for x in (field, weight))
    field = functional.interpolate(
        field / weight.clamp(min=0.05), size=(size, size), mode="bilinear", align_corners=False
    )
    level = ratio.sum(dim=(1, 2, 3), keepdim=True) / brain.sum(dim=(1, 2, 3), keepdim=True).clamp(
        min=1
    )
    taken = (
        uniform(generator, count, 0.0, 0.5) * field + uniform(generator, count, 0.0, 1.0) * level
    )
    return after * torch.exp(-taken)


def transplant_lesions(
    images: Tensor,
    masks: Tensor,
    donors: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Put the lesions of other patients where they lie, blended over a pixel at their edge.

    Parameters
    ----------
    donors
        Images and masks (N, 1, H, W) to take the lesions from, one for each image.
    """
    pixels, lesions = donors
    visible = (images > _BRAIN) & (pixels > _BRAIN)
    lesion = (lesions > 0.5).float() * visible
    share = functional.avg_pool2d(lesion, 3, 1, 1) * visible
    return torch.lerp(images, pixels, share), torch.maximum(masks, lesion)


def brighten_rims(images: Tensor, generator: Generator) -> Tensor:
    """Brighten parts of the brain's edge, as near the sinuses and the petrous bone.

    Signal piles up there on both sides or on one, over millimetres or over
    whole poles of the temporal lobes.
    """
    count, _, size, _ = images.shape
    brain = (images > _BRAIN).float()
    narrow, middle, wide = (
        1 - functional.avg_pool2d(brain, width, 1, width // 2) for width in (7, 13, 25)
    )
    which = uniform(generator, count, 0, 1)
    edge = torch.where(which < 0.35, narrow, torch.where(which < 0.7, middle, wide)) * brain
    patches = torch.where(
        chance(generator, count, 0.5) > 0,
        smooth_field(generator, count, size, 7),
        smooth_field(generator, count, size, 12),
    ).clamp(0)
    both = torch.maximum(patches, patches.flip(3))
    patches = torch.where(chance(generator, count, 0.6) > 0, both, patches)
    strength = uniform(generator, count, 0.0, 2.5) * chance(generator, count, 0.45)
    return images * (1 + strength * edge * patches)


def trim_edge(images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Cut pixels off the brain's edge, as brain masks that are too small do."""
    count = len(images)
    brain = (images > _BRAIN).float()
    share = functional.avg_pool2d(brain, 5, 1, 2)
    least = uniform(generator, count, 0.4, 0.95) * chance(generator, count, 0.3)
    kept = share >= least
    return images * kept, masks * kept


def change_intensity(images: Tensor, generator: Generator) -> Tensor:
    """Vary scale, contrast, shading, resolution, noise and the ceiling."""
    count, _, size, _ = images.shape
    brain = images > _BRAIN
    contrast = uniform(generator, count, 0.75, 1.3)
    images = TISSUE + (images - TISSUE) * torch.where(
        images < TISSUE, contrast, contrast.clamp(0.9)
    )
    images = images * uniform(generator, count, 0.9, 1.1)
    # What the correction leaves of a coil's shading, and what it adds around lesions.
    shading = smooth_field(generator, count, size, 5) * uniform(generator, count, 0.0, 0.1)
    images = images * (1 + shading)
    factor = float(uniform(generator, 1, _COARSEST, 0.9))
    coarse = functional.interpolate(images, scale_factor=factor, mode="bilinear", antialias=True)
    coarse = functional.interpolate(coarse, size=(size, size), mode="bilinear")
    images = torch.where(chance(generator, count, 0.3) > 0, coarse, images)
    noise = torch.randn(images.shape, generator=generator, device=generator.device)
    soft = functional.avg_pool2d(noise, 3, 1, 1) * 3
    noise = torch.where(chance(generator, count, 0.5) > 0, soft, noise)
    images = images + noise * uniform(generator, count, 0.0, 0.03)
    ceiling = 1 - uniform(generator, count, 0.0, 0.3) * chance(generator, count, 0.3)
    return (torch.minimum(images.clamp(0, 1), ceiling) * brain).contiguous()


def mirror_healthy(image: Tensor, mask: Tensor) -> Tensor | None:
    """Half of an image (H, W) without lesion, mirrored over the other; None if both have some."""
    half = image.shape[1] // 2
    left, right = mask[:, :half].sum() > 0, mask[:, half:].sum() > 0
    if left and right:
        return None
    mirrored = image.clone()
    if left:
        mirrored[:, :half] = image[:, half:].flip(1)
    else:
        mirrored[:, half:] = image[:, :half].flip(1)
    return mirrored


def jitter(images: Tensor, generator: Generator) -> Tensor:
    """A copy whose lesions are the same: a grey level's shift, gain and noise, and some shading."""
    count, _, height, width = images.shape
    shading = smooth_field(generator, count, max(height, width), 5)[:, :, :height, :width]
    images = images * (1 + shading * uniform(generator, count, 0.0, 0.05))
    noise = torch.randn(images.shape, generator=generator, device=generator.device)
    noise = noise * uniform(generator, count, 0.0, 0.012)
    moved = images * uniform(generator, count, 0.99, 1.01) + uniform(
        generator, count, -0.005, 0.005
    )
    return (moved + noise).clamp(0, 1) * (images > 0)
