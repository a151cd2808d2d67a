"""Synthetic stroke brains: DWI or FLAIR volumes with known lesions, made by formulas alone.

The anatomy is a function of the position in mm, so that one seed is one brain
on whatever grid it is seen; no patient's data are in it. Positions are arrays
(3, N) in RAS+ mm: to the right, anterior and superior of the brain's middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnnres_infer.errors import GeometryError, UsageError
from cnnres_infer.phantom.shapes import (
    FloatArray,
    Place,
    Waves,
    below,
    column,
    ellipsoid,
    mirrored,
    norm,
    random_vector,
    tubes,
)

T = TypeVar("T", bound=np.generic)
Affine: TypeAlias = NDArray[np.float64]

_TISSUE = 250.0
_FINEST_MM = 2.0
_MIDDLE = (0.0, -8.0, 0.0)
_BRAIN_REACH = (80.0, 100.0, 84.0)
_HEAD_REACH = (100.0, 120.0, 160.0)

# Shapes on the right stand for both sides. Ellipsoids: centre, radii (mm).
_CEREBRUM = ((0, -4, 8), (63, 79, 56))
_TEMPORAL = ((40, 0, -14), (21, 39, 20))
_CEREBELLUM = ((20, -50, -32), (30, 26, 21))
_CALLOSUM = ((0, -6, 6), (1e3, 44, 22))
_HEAD = ((0, -2, 0), (79, 97, 82))
# Ellipsoids, and how much grey matter and iron are in them.
_NUCLEI = (
    ((10, -17, 8), (8, 14, 9), 0.5, 0.0),
    ((14, 14, 10), (5, 9, 9), 0.8, 0.0),
    ((26, 3, 3), (5, 15, 9), 0.8, 0.2),
    ((19, 0, 1), (5, 9, 6), 0.0, 1.0),
    ((14, -56, -34), (6, 8, 5), 0.0, 0.6),
)
# Tapered tubes: from, to, radii at both ends (mm).
_NECK = (((0, -25, -60), (0, -25, -160), 55, 55),)
_BRAINSTEM = (
    ((0, -16, 2), (0, -20, -14), 11, 12),
    ((0, -20, -14), (0, -24, -28), 12, 14),
    ((0, -24, -28), (0, -33, -58), 12, 6),
)
_VENTRICLES = (
    ((13, 32, 6), (5, 14, 8), 3.5, 3.5),
    ((5, 14, 8), (6, 4, 20), 3.5, 5.0),
    ((13, 30, 8), (6, 4, 20), 3.5, 5.0),
    ((6, 4, 20), (11, -22, 20), 5.5, 5.5),
    ((11, -22, 20), (22, -38, 8), 5.5, 5.5),
    ((22, -38, 8), (22, -58, 6), 4.5, 1.5),
    ((22, -38, 8), (33, -14, -12), 3.5, 1.5),
    ((0, -4, -2), (0, -24, 6), 1.8, 1.8),
    ((0, -36, -24), (0, -38, -34), 3.0, 2.5),
)
_CISTERNS = (
    ((0, 8, -12), (0, -4, -14), 7.0, 5.0),
    ((0, 6, -10), (26, 8, -10), 2.5, 2.5),
    ((26, 8, -10), (36, 16, -2), 2.5, 2.5),
    ((36, 16, -2), (42, -8, 4), 2.5, 2.2),
    ((42, -8, 4), (50, -26, 12), 2.2, 1.5),
    ((40, 14, -4), (64, 16, -10), 2.5, 4.0),
    ((42, -4, 4), (66, -6, 2), 1.5, 2.5),
    ((0, -36, 0), (0, -34, -8), 6.0, 4.0),
)
_RIMS = ((40, 14, -30), (50, -12, -24), (12, 62, -8))
_EYE = ((31, 70, -26), (12, 12, 12))
# Where strokes are common: centre, smallest and largest radius (mm).
_SITES = (
    ((27, 2, 14), 4, 9),
    ((11, -17, 9), 4, 7),
    ((38, 26, 18), 6, 13),
    ((37, -22, 26), 8, 18),
    ((40, -8, 14), 8, 16),
    ((20, -58, 14), 6, 13),
    ((24, -10, 36), 3, 9),
    ((22, -52, -36), 5, 12),
    ((5, -22, -26), 4, 6),
)


@dataclass(frozen=True)
class PhantomLesion:
    """A bright, irregular lesion.

    Attributes
    ----------
    centre_mm
        Where it lies, in RAS+ mm.
    radius_mm
        Radius of the ball of the same volume.
    brightness
        Its intensity in multiples of the tissue's.
    irregularity
        From 0, a ball, to below 1: how far the outline strays from the ball.
    outline
        Seed of the outline.
    """

    centre_mm: tuple[float, float, float]
    radius_mm: float
    brightness: float = 1.8
    irregularity: float = 0.6
    outline: int = 0

    def __post_init__(self) -> None:
        sizes = (self.radius_mm, self.brightness)
        sound = np.isfinite((*self.centre_mm, *sizes)).all() and min(sizes) > 0
        if not sound or not 0 <= self.irregularity < 1:
            raise UsageError(f"{self}: sizes must be positive, irregularity from 0 to below 1")

    @property
    def volume_ml(self) -> float:
        """Volume in ml; a phantom holds the part of it that lies in the brain."""
        return 4 / 3 * np.pi * self.radius_mm**3 / 1000

    def share(self, p: FloatArray) -> FloatArray:
        """How much of each position (3, N) is lesion, from 0 to 1."""
        rng = np.random.default_rng(self.outline)
        axes, stretch = np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.normal(size=3).clip(-1, 1)
        axes = axes * np.exp(0.4 * self.irregularity * (stretch - stretch.mean()))
        away = axes.astype(np.float32) @ (p - column(self.centre_mm))
        distance = norm(away)
        # The volume is the mean of the cubed radius over all directions; what is
        # odd in the direction has a mean of zero, so any outline keeps the volume.
        bulges = sum(np.sin(random_vector(rng, k) @ (away / distance)) for k in (2.0, 3.5, 5.0))
        radius = self.radius_mm * np.cbrt(1 + np.float32(self.irregularity / 3) * bulges)
        return below(distance - radius)


@dataclass(frozen=True)
class Phantom:
    """A synthetic brain with what is known of it.

    Attributes
    ----------
    data
        float32 (X, Y, Z): the image.
    affine
        float64 (4, 4): voxel indices to mm in RAS+.
    truth
        uint8 (X, Y, Z): 1 in voxels of the brain of which most is lesion.
    brain
        bool (X, Y, Z): the brain with its fluid.
    lesions
        The lesions in it.
    """

    data: FloatArray
    affine: Affine
    truth: NDArray[np.uint8]
    brain: NDArray[np.bool_]
    lesions: tuple[PhantomLesion, ...]


class _Contrast(NamedTuple):
    """Intensities in multiples of white matter's."""

    grey: float
    iron: float
    fluid: float
    scalp: float


_CONTRASTS = {
    "dwi": _Contrast(grey=1.22, iron=0.68, fluid=0.22, scalp=0.25),
    "flair": _Contrast(grey=1.25, iron=0.85, fluid=0.16, scalp=0.7),
}


def make_phantom(
    seed: int = 0,
    shape: tuple[int, int, int] = (112, 112, 72),
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
    modality: str = "dwi",
    lesions: Sequence[PhantomLesion] | None = None,
    affine: ArrayLike | None = None,
    skull: bool = False,
) -> Phantom:
    """Make a synthetic brain.

    Parameters
    ----------
    seed
        Which brain: the same one on any grid, in any modality, with any lesions.
    shape, spacing
        Voxels along each axis and their distance in mm, for a grid about the
        middle of the brain with axes to left, anterior and superior.
    modality
        ``"dwi"`` or ``"flair"``.
    lesions
        None draws one to three where strokes are common; an empty sequence
        leaves the brain healthy.
    affine
        (4, 4) voxel indices to RAS+ mm, oblique or not, in place of `spacing`.
    skull
        Whether to add scalp, face and neck, and noise around the head. Without,
        all outside the brain is zero.

    Raises
    ------
    UsageError
        If the modality is unknown.
    GeometryError
        If the affine is singular.
    """
    if modality not in _CONTRASTS:
        raise UsageError(f"no modality {modality!r}: choose one of {', '.join(_CONTRASTS)}")
    placed = _centred(shape, spacing) if affine is None else np.array(affine, np.float64)
    if not np.linalg.det(placed[:3, :3]):
        raise GeometryError("the affine is singular: the phantom has no extent in some direction")
    anatomy = _Anatomy(seed, _CONTRASTS[modality])
    chosen = tuple(anatomy.draw_lesions() if lesions is None else lesions)
    near, samples = _samples(shape, placed, _HEAD_REACH if skull else _BRAIN_REACH)
    parts = [anatomy.render(positions, chosen, skull) for positions in samples]
    signal, lesion, inside = np.mean(parts, axis=0)

    brain = _scattered(inside > 0.5, near, shape)
    truth = _scattered((lesion > 0.5) & (inside > 0.5), near, shape).astype(np.uint8)
    data = _noisy(_scattered(signal, near, shape), anatomy.noise, seed)
    if not skull:
        data[~brain] = 0.0
    return Phantom(data, placed, truth, brain, chosen)


class _Anatomy:
    """One brain as functions of the position."""

    def __init__(self, seed: int, contrast: _Contrast) -> None:
        rng = np.random.default_rng([seed, 0])
        self.seed = seed
        self.contrast = contrast
        self.size = rng.uniform(0.96, 1.05)
        self.dilation = rng.uniform(-0.3, 2.2)
        self.atrophy = rng.uniform(0.4, 0.9)
        self.rims = rng.uniform(0.1, 0.5, len(_RIMS))
        self.noise = rng.uniform(0.02, 0.04)
        self.warp = [Waves(rng, 4, 70) for _ in range(3)]
        self.folds = Waves(rng, 16, 22)
        self.meander = Waves(rng, 6, 40)
        self.folia = Waves(rng, 8, 9)
        self.texture = Waves(rng, 10, 11)
        self.shading = Waves(rng, 3, 260)

    def draw_lesions(self) -> list[PhantomLesion]:
        rng = np.random.default_rng([self.seed, 1])
        lesions = []
        for site in rng.choice(len(_SITES), rng.integers(1, 4), replace=False):
            centre, smallest, largest = _SITES[site]
            side = (rng.choice((-1, 1)), 1, 1)
            x, y, z = (self.size * (np.multiply(centre, side) + rng.normal(0, 1.5, 3))).tolist()
            radius = smallest * (largest / smallest) ** rng.uniform()
            bright, irregular = rng.uniform((1.5, 0.4), (2.4, 0.9)).tolist()
            outline = int(rng.integers(1 << 31))
            lesions.append(PhantomLesion((x, y, z), radius, bright, irregular, outline))
        return lesions

    def render(
        self, p: FloatArray, lesions: Sequence[PhantomLesion], skull: bool
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Signal, share of lesion and share of brain, each (N,), at positions (3, N)."""
        q = p / np.float32(self.size)
        q += np.stack([1.5 * wave(q) for wave in self.warp])
        s = mirrored(q)
        texture = self.texture(q)
        depth = self._depth(q, s)
        lesion, gain = np.zeros_like(depth), np.ones_like(depth)
        for one in lesions:
            share = one.share(p)
            lesion = np.maximum(lesion, share)
            gain = np.maximum(gain, 1 + (one.brightness - 1) * share * (1 + 0.08 * texture))
        for strength, place in zip(self.rims, _RIMS, strict=True):
            near = np.exp(-((norm(s - column(place)) / 11) ** 2))
            gain += np.float32(strength) * near * below(depth - 4, 2.0)
        inside = below(-depth)
        signal = self._tissue(q, s, depth, lesion) * (1 + 0.04 * texture) * gain * inside
        if skull:
            signal += self._head(p, depth) * (1 - inside)
        return signal * (1 + 0.04 * self.shading(p)), lesion, inside

    def _depth(self, q: FloatArray, s: FloatArray) -> FloatArray:
        """Depth (mm) below the surface of the brain, negative outside."""
        base = 12 * (s[0] / 45) ** 2 * below(18 - s[1], 6.0) - 16
        cerebrum = np.maximum(ellipsoid(q, *_CEREBRUM), base - s[2])
        rest = [ellipsoid(s, *_TEMPORAL), ellipsoid(s, *_CEREBELLUM), tubes(s, _BRAINSTEM)]
        nearest: FloatArray = np.minimum.reduce([cerebrum, *rest])
        return -nearest

    def _tissue(
        self, q: FloatArray, s: FloatArray, depth: FloatArray, lesion: FloatArray
    ) -> FloatArray:
        """Intensity of the brain; the swelling of a lesion closes the folds in it."""
        wave = self.meander(q)
        stem = tubes(s, _BRAINSTEM)
        cortex = self._to_folds(q, s, depth, wave, stem) - np.float32(self.atrophy)
        grey = below(cortex - 3, 0.8)
        iron: FloatArray = np.zeros_like(cortex)
        for centre, radii, greyness, ironness in _NUCLEI:
            share = below(ellipsoid(s, centre, radii), 0.8)
            grey += (greyness - grey) * share
            iron = np.maximum(iron, ironness * share)
        around_stem = np.where(abs(s[2] + 9) < 5, abs(stem - 2 - 2 * wave) - 0.8 - 0.6 * wave, 9)
        lakes = np.minimum(tubes(s, _CISTERNS), around_stem)
        lakes = np.minimum(lakes, tubes(s, _VENTRICLES) - np.float32(self.dilation))
        fluid: FloatArray = np.maximum(below(cortex) * (1 - 0.7 * lesion), below(lakes))
        look = self.contrast
        signal: FloatArray = np.float32(look.grey - 1) * grey + np.float32(look.iron - 1) * iron + 1
        signal += (look.fluid - signal) * fluid
        return signal

    def _to_folds(
        self, q: FloatArray, s: FloatArray, depth: FloatArray, wave: FloatArray, stem: FloatArray
    ) -> FloatArray:
        """Distance (mm) to the nearest fluid on the brain or in its folds."""
        # Folds are the zeros of a random field that hardly changes with the
        # depth: walls that meander over the surface and stand upright on it.
        upright: FloatArray = q * np.power(norm(q) / 65, -0.8)
        beyond = np.maximum(0, -12 - 5 * wave - ellipsoid(q, *_CEREBRUM))
        sulci = np.hypot(abs(self.folds(upright)) * 3.4, beyond) - 1.2 * np.exp(-depth.clip(0) / 4)
        folia = abs(self.folia(q * column((0.4, 0.8, 1.1)))) * 2 + 0.8
        folds = np.where(ellipsoid(s, *_CEREBELLUM) < 1, folia, sulci)
        fissure = np.hypot(q[0] + 0.7 * wave, np.maximum(0, -ellipsoid(q, *_CALLOSUM)))
        nearest: FloatArray = np.minimum(
            depth - 0.8, np.where(stem < 1, 9, np.minimum(folds, fissure))
        )
        return nearest

    def _head(self, p: FloatArray, depth: FloatArray) -> FloatArray:
        """Intensity outside the brain: scalp, face, eyes; bone and air are dark."""
        s = mirrored(p)
        skin = np.minimum(ellipsoid(p, *_HEAD), tubes(s, _NECK))
        face = below(s[2] + 26 + 0.3 * s[1]) * below(depth + 6) * (0.5 + 0.25 * self.folia(p))
        soft = np.maximum(below(-4 - skin), face.clip(0)) * below(skin)
        bright: FloatArray = np.maximum(soft, 1.5 * below(ellipsoid(s, *_EYE)))
        return self.contrast.scalp * bright


def _centred(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Affine:
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    affine[:3, 3] = _MIDDLE - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


def _samples(
    shape: tuple[int, int, int], affine: Affine, reach: Place
) -> tuple[NDArray[np.bool_], list[FloatArray]]:
    """Which voxels lie within `reach` (mm) of the middle, and positions (3, N) in them.

    A long voxel is sampled several times, as its intensity is its mean.
    """
    axes, spacing = affine[:3, :3], np.linalg.norm(affine[:3, :3], axis=0)
    middles = np.indices(shape, np.float64).reshape(3, -1).T @ axes.T + affine[:3, 3]
    near = (((middles - _MIDDLE) / np.add(reach, spacing)) ** 2).sum(axis=1) < 1
    counts = [max(1, int(np.ceil(step / _FINEST_MM - 0.3))) for step in spacing]
    places = product(*((np.arange(n) + 0.5) / n - 0.5 for n in counts))
    shifts = [axes @ place for place in places]
    return near, [(middles[near] + shift).T.astype(np.float32, order="C") for shift in shifts]


def _scattered(
    values: NDArray[T], near: NDArray[np.bool_], shape: tuple[int, int, int]
) -> NDArray[T]:
    data = np.zeros(near.shape, values.dtype)
    data[near] = values
    return data.reshape(shape)


def _noisy(signal: FloatArray, noise: float, seed: int) -> FloatArray:
    """Scanner intensities with Rician noise, the magnitude of a complex normal one."""
    rng = np.random.default_rng([seed, 2])
    real, imaginary = noise * rng.standard_normal((2, *signal.shape), np.float32)
    magnitude: FloatArray = np.hypot(signal + real, imaginary)
    return _TISSUE * magnitude
