"""Synthetic stroke brains: DWI or FLAIR volumes with known lesions, made by formulas alone.

The anatomy is a function of the position in mm, so that one seed is one brain,
whatever the grid that it is looked at on. It holds nothing of any patient.

Positions are arrays (3, N) of mm in RAS+: x to the right, y anterior, z
superior, about the middle of the brain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnnres_infer.errors import UsageError
from cnnres_infer.volume import FloatArray, Grid, Volume

_TISSUE = 250.0
_BLUR_MM = 0.5
_FINEST_MM = 2.0
_MIDDLE = (0.0, -8.0, 2.0)
_BRAIN_REACH = (72.0, 92.0, 74.0)
_HEAD_REACH = (90.0, 110.0, 130.0)

# Tapered tubes: from, to (mm), radii at both ends. Those of the right side stand for both.
_BRAINSTEM = (
    ((0, -16, 2), (0, -20, -14), 11, 12),
    ((0, -20, -14), (0, -24, -28), 12, 14),
    ((0, -24, -28), (0, -34, -62), 12, 6),
)
_VENTRICLES = (
    ((8, 30, 8), (7, 6, 20), 4.5, 6.0),
    ((7, 6, 20), (11, -22, 20), 6.0, 5.5),
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
# Ellipsoids of the right side: centre, radii (mm), and how much grey or iron they hold.
_NUCLEI = (
    ((10, -17, 8), (8, 14, 9), 0.5, 0.0),
    ((14, 14, 10), (5, 9, 9), 0.8, 0.0),
    ((26, 3, 3), (5, 15, 9), 0.8, 0.2),
    ((19, 0, 1), (5, 9, 6), 0.0, 1.0),
    ((14, -56, -34), (6, 8, 5), 0.0, 0.6),
)
# Where strokes are common, on the right side: centre (mm) and radii (mm) from, to.
_SITES = (
    ((27, 2, 14), 4, 9),
    ((11, -17, 9), 3, 6),
    ((38, 26, 18), 6, 13),
    ((37, -22, 26), 8, 18),
    ((40, -8, 14), 8, 16),
    ((20, -58, 14), 6, 13),
    ((24, -10, 36), 3, 9),
    ((22, -52, -36), 5, 12),
    ((5, -22, -26), 3, 5),
)
_RIMS = ((40, 14, -30), (50, -12, -24), (12, 62, -8))


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
        numbers = (*self.centre_mm, self.radius_mm, self.brightness, self.irregularity)
        sound = self.radius_mm > 0 and self.brightness > 0 and 0 <= self.irregularity < 1
        if len(self.centre_mm) != 3 or not np.isfinite(numbers).all() or not sound:
            raise UsageError(
                f"{self}: give three coordinates, a positive radius and brightness, "
                "and an irregularity from 0 to below 1"
            )

    @property
    def volume_ml(self) -> float:
        """Volume in ml, of which a phantom holds the part inside its brain."""
        return 4 / 3 * np.pi * self.radius_mm**3 / 1000

    def share(self, p: FloatArray) -> FloatArray:
        """How much of each position (3, N) is lesion, from 0 to 1."""
        rng = np.random.default_rng(self.outline)
        away = p - _column(self.centre_mm)
        distance = np.linalg.norm(away, axis=0) + np.float32(1e-6)
        # The volume is the mean of the cubed radius over all directions; what is
        # odd in the direction has a mean of zero, so any outline keeps the volume.
        bulges = [np.sin(_direction(rng, k) @ (away / distance)) for k in (2.0, 3.5, 5.0)]
        cubed = 1 + np.float32(self.irregularity / 3) * np.sum(bulges, axis=0)
        return _inside(distance - np.float32(self.radius_mm) * np.cbrt(cubed))


@dataclass(frozen=True)
class Phantom:
    """A synthetic brain with what is known of it.

    Attributes
    ----------
    volume
        The image.
    truth
        uint8 (X, Y, Z): 1 where at least half of a voxel of brain is lesion.
    brain
        bool (X, Y, Z): the brain with its fluid.
    """

    volume: Volume
    truth: NDArray[np.uint8]
    brain: NDArray[np.bool_]


@dataclass(frozen=True)
class _Contrast:
    """Intensities in multiples of white matter's."""

    grey: float
    iron: float
    fluid: float
    scalp: float


_CONTRASTS = {
    "dwi": _Contrast(grey=1.17, iron=0.68, fluid=0.22, scalp=0.25),
    "flair": _Contrast(grey=1.2, iron=0.85, fluid=0.16, scalp=0.7),
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
        Which brain; the same seed is the same brain on any grid, and in any
        modality, with or without lesions and skull.
    shape, spacing
        Voxels along each axis and their distance in mm: a grid about the
        middle of the brain, its axes to left, anterior and superior.
    modality
        ``"dwi"`` or ``"flair"``.
    lesions
        What to put in; None draws one to three at places common in stroke,
        and an empty sequence leaves the brain healthy.
    affine
        (4, 4) voxel indices to RAS+ mm, in place of `spacing`; it may be oblique.
    skull
        Whether to add scalp, eyes and neck, and noise around the head. Without,
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
    grid = Grid(shape, _centred(shape, spacing) if affine is None else np.asarray(affine, float))
    anatomy = _Anatomy(seed, _CONTRASTS[modality])
    chosen = anatomy.draw_lesions() if lesions is None else lesions
    near, samples = _samples(grid, _HEAD_REACH if skull else _BRAIN_REACH)
    parts = [anatomy.render(positions, chosen, skull) for positions in samples]
    signal, lesion, inside = (
        sum(part) / np.float32(len(parts)) for part in zip(*parts, strict=True)
    )

    brain = _scattered(inside > 0.5, near, shape)
    truth = _scattered((lesion > 0.5) & (inside > 0.5), near, shape).astype(np.uint8)
    data = _noisy(_scattered(signal, near, shape), anatomy.noise, seed)
    if not skull:
        data[~brain] = 0.0
    return Phantom(Volume(data, grid, f"phantom{seed}"), truth, brain)


class _Anatomy:
    """One brain as functions of the position."""

    def __init__(self, seed: int, contrast: _Contrast) -> None:
        rng = np.random.default_rng([seed, 0])
        self.contrast = contrast
        self.seed = seed
        self.size = np.float32(rng.uniform(0.96, 1.05))
        self.dilation = rng.uniform(-0.5, 1.8)
        self.atrophy = rng.uniform(0.0, 0.5)
        self.rims = rng.uniform(0.1, 0.5, len(_RIMS))
        self.noise = rng.uniform(0.015, 0.03)
        self.warp = [_Waves(rng, 4, 70) for _ in range(3)]
        self.folds = _Waves(rng, 16, 24)
        self.meander = _Waves(rng, 6, 40)
        self.furrows = _Waves(rng, 8, 9)
        self.texture = _Waves(rng, 8, 14)
        self.shading = _Waves(rng, 3, 260)

    def draw_lesions(self) -> list[PhantomLesion]:
        rng = np.random.default_rng([self.seed, 1])
        lesions = []
        for site in rng.choice(len(_SITES), rng.integers(1, 4), replace=False):
            centre, smallest, largest = _SITES[site]
            place = (
                centre * rng.choice([(-1, 1, 1), (1, 1, 1)]) + rng.normal(0, 1.5, 3)
            ) * self.size
            radius = smallest * (largest / smallest) ** rng.uniform()
            brightness, irregularity = rng.uniform((1.5, 0.3), (2.4, 0.8))
            x, y, z = place.tolist()
            outline = int(rng.integers(1 << 31))
            lesions.append(PhantomLesion((x, y, z), radius, brightness, irregularity, outline))
        return lesions

    def render(
        self, p: FloatArray, lesions: Sequence[PhantomLesion], skull: bool
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Signal, share of lesion and share of brain at positions (3, N)."""
        q = p / self.size
        q = q + np.stack([np.float32(1.5) * wave(q) for wave in self.warp])
        depth = self._depth(q)
        inside = _inside(-depth)
        shares = [lesion.share(p) for lesion in lesions]
        lesion = np.max(shares, axis=0) if shares else np.zeros_like(inside)
        gain = np.ones_like(inside)
        for one, share in zip(lesions, shares, strict=True):
            swing = np.float32(one.brightness - 1) * (1 + np.float32(0.08) * self.texture(q))
            gain = np.maximum(gain, 1 + swing * share)
        tissue = self._tissue(q, depth, lesion) * gain * self._rim(q, depth)
        around = self._head(p, depth) if skull else np.float32(0.0)
        signal = tissue * inside + around * (1 - inside)
        return signal * (1 + np.float32(0.04) * self.shading(p)), lesion, inside
