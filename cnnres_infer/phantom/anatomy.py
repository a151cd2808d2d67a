"""The anatomy of phantoms, as functions of the position.

Positions are arrays (3, N) in mm, RAS+, relative to the centre of the brain.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cnnres_infer.phantom.lesion import PhantomLesion
from cnnres_infer.phantom.shapes import (
    FloatArray,
    Waves,
    column,
    coverage,
    ellipsoid,
    mirrored,
    norm,
    tubes,
)

# Shapes on the right are mirrored to the left. Ellipsoids: centre, radii (mm).
_CEREBRUM = ((0, -4, 8), (63, 79, 56))
_TEMPORAL = ((40, 0, -14), (21, 39, 20))
_CEREBELLUM = ((20, -50, -32), (30, 26, 21))
_CALLOSUM = ((0, -6, 6), (1e3, 44, 22))
_HEAD = ((0, -2, 0), (79, 97, 82))
# Ellipsoids with their fractions of grey matter and of iron-rich tissue.
_NUCLEI = (
    ((10, -17, 8), (8, 14, 9), 0.5, 0.0),
    ((14, 14, 10), (5, 9, 9), 0.8, 0.0),
    ((26, 3, 3), (5, 15, 9), 0.8, 0.2),
    ((19, 0, 1), (5, 9, 6), 0.0, 1.0),
    ((14, -56, -34), (6, 8, 5), 0.0, 0.6),
)
# Tapered tubes: start, end, radii at both ends (mm).
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
# Where air near the skull base brightens the surface of the brain (mm).
_SUSCEPTIBILITY_SITES = ((40, 14, -30), (50, -12, -24), (12, 62, -8))
_EYE = ((31, 70, -26), (12, 12, 12))
# Typical sites of strokes: centre, smallest and largest radius (mm).
_LESION_SITES = (
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


class Contrast(NamedTuple):
    """Intensities relative to white matter."""

    grey: float
    iron: float
    fluid: float
    scalp: float


CONTRASTS = {
    "dwi": Contrast(grey=1.22, iron=0.68, fluid=0.22, scalp=0.25),
    "flair": Contrast(grey=1.25, iron=0.85, fluid=0.16, scalp=0.7),
}


class Anatomy:
    """The anatomy of a brain, as functions of the position.

    In the methods, `p` are positions (3, N) in mm, `q` positions warped to the average
    brain, and `s` positions mirrored to the right.
    """

    def __init__(self, seed: int, contrast: Contrast) -> None:
        rng = np.random.default_rng([seed, 0])
        self.seed = seed
        self.contrast = contrast
        self.size = rng.uniform(0.96, 1.05)
        self.dilation = rng.uniform(-0.3, 2.2)
        self.atrophy = rng.uniform(0.4, 0.9)
        self.susceptibility = rng.uniform(0.1, 0.5, len(_SUSCEPTIBILITY_SITES))
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
        for site in rng.choice(len(_LESION_SITES), rng.integers(1, 4), replace=False):
            centre, smallest, largest = _LESION_SITES[site]
            side = (rng.choice((-1, 1)), 1, 1)
            x, y, z = (self.size * (np.multiply(centre, side) + rng.normal(0, 1.5, 3))).tolist()
            radius = smallest * (largest / smallest) ** rng.uniform()
            brightness, irregularity = rng.uniform((1.5, 0.4), (2.4, 0.9)).tolist()
            outline = int(rng.integers(1 << 31))
            lesions.append(PhantomLesion((x, y, z), radius, brightness, irregularity, outline))
        return lesions

    def render(
        self, p: FloatArray, lesions: Sequence[PhantomLesion], skull: bool
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Signal, fraction of lesion and fraction of brain, each (N,), at positions (3, N)."""
        q = p / np.float32(self.size)
        q += np.stack([1.5 * wave(q) for wave in self.warp])
        s = mirrored(q)
        texture = self.texture(q)
        depth = self._depth(q, s)
        lesion, gain = np.zeros_like(depth), np.ones_like(depth)
        for each in lesions:
            fraction = each.partial_volume(p)
            lesion = np.maximum(lesion, fraction)
            gain = np.maximum(gain, 1 + (each.brightness - 1) * fraction * (1 + 0.08 * texture))
        for strength, site in zip(self.susceptibility, _SUSCEPTIBILITY_SITES, strict=True):
            proximity = np.exp(-((norm(s - column(site)) / 11) ** 2))
            gain += np.float32(strength) * proximity * coverage(depth - 4, 2.0)
        inside = coverage(-depth)
        signal = self._tissue(q, s, depth, lesion) * (1 + 0.04 * texture) * gain * inside
        if skull:
            signal += self._head(p, depth) * (1 - inside)
        return signal * (1 + 0.04 * self.shading(p)), lesion, inside

    def _depth(self, q: FloatArray, s: FloatArray) -> FloatArray:
        """Depth (mm) below the surface of the brain; negative outside."""
        base = 12 * (s[0] / 45) ** 2 * coverage(18 - s[1], 6.0) - 16
        cerebrum = np.maximum(ellipsoid(q, *_CEREBRUM), base - s[2])
        rest = [ellipsoid(s, *_TEMPORAL), ellipsoid(s, *_CEREBELLUM), tubes(s, _BRAINSTEM)]
        nearest: FloatArray = np.minimum.reduce([cerebrum, *rest])
        return -nearest

    def _tissue(
        self, q: FloatArray, s: FloatArray, depth: FloatArray, lesion: FloatArray
    ) -> FloatArray:
        """Intensity of brain tissue and fluid; lesions swell, which narrows the sulci in them."""
        wave = self.meander(q)
        stem = tubes(s, _BRAINSTEM)
        cortex = self._distance_to_surface(q, s, depth, wave, stem) - np.float32(self.atrophy)
        grey = coverage(cortex - 3, 0.8)
        iron: FloatArray = np.zeros_like(cortex)
        for centre, radii, grey_fraction, iron_fraction in _NUCLEI:
            fraction = coverage(ellipsoid(s, centre, radii), 0.8)
            grey += (grey_fraction - grey) * fraction
            iron = np.maximum(iron, iron_fraction * fraction)
        perimesencephalic = np.where(
            abs(s[2] + 9) < 5, abs(stem - 2 - 2 * wave) - 0.8 - 0.6 * wave, 9
        )
        cavities = np.minimum(tubes(s, _CISTERNS), perimesencephalic)
        cavities = np.minimum(cavities, tubes(s, _VENTRICLES) - np.float32(self.dilation))
        fluid: FloatArray = np.maximum(coverage(cortex) * (1 - 0.7 * lesion), coverage(cavities))
        grey_excess = np.float32(self.contrast.grey - 1)
        iron_excess = np.float32(self.contrast.iron - 1)
        signal: FloatArray = grey_excess * grey + iron_excess * iron + 1
        signal += (self.contrast.fluid - signal) * fluid
        return signal

    def _distance_to_surface(
        self, q: FloatArray, s: FloatArray, depth: FloatArray, wave: FloatArray, stem: FloatArray
    ) -> FloatArray:
        """Distance (mm) to the nearest fluid on the surface of the brain or in its folds."""
        # Sulci are the zeros of a random field that hardly varies with depth, which makes
        # them winding sheets perpendicular to the surface.
        flattened: FloatArray = q * np.power(norm(q) / 65, -0.8)
        beyond = np.maximum(0, -12 - 5 * wave - ellipsoid(q, *_CEREBRUM))
        opening = 1.2 * np.exp(-depth.clip(0) / 4)
        sulci = np.hypot(abs(self.folds(flattened)) * 3.4, beyond) - opening
        folia = abs(self.folia(q * column((0.4, 0.8, 1.1)))) * 2 + 0.8
        folds = np.where(ellipsoid(s, *_CEREBELLUM) < 1, folia, sulci)
        fissure = np.hypot(q[0] + 0.7 * wave, np.maximum(0, -ellipsoid(q, *_CALLOSUM)))
        nearest: FloatArray = np.minimum(
            depth - 0.8, np.where(stem < 1, 9, np.minimum(folds, fissure))
        )
        return nearest

    def _head(self, p: FloatArray, depth: FloatArray) -> FloatArray:
        """Intensity of scalp, face and eyes; bone and air are dark."""
        s = mirrored(p)
        skin = np.minimum(ellipsoid(p, *_HEAD), tubes(s, _NECK))
        face = coverage(s[2] + 26 + 0.3 * s[1]) * coverage(depth + 6)
        face *= 0.5 + 0.25 * self.folia(p)
        soft = np.maximum(coverage(-4 - skin), face.clip(0)) * coverage(skin)
        bright: FloatArray = np.maximum(soft, 1.5 * coverage(ellipsoid(s, *_EYE)))
        return self.contrast.scalp * bright
