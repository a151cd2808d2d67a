"""Synthetic DWI and FLAIR volumes of brains with known stroke lesions.

The anatomy is a function of the position in mm, so that a seed gives the same
brain on any grid. It contains no patient data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnnres_infer.errors import GeometryError, UsageError
from cnnres_infer.phantom.anatomy import CONTRASTS, Anatomy
from cnnres_infer.phantom.lesion import PhantomLesion
from cnnres_infer.phantom.shapes import FloatArray, Point

T = TypeVar("T", bound=np.generic)
Affine: TypeAlias = NDArray[np.float64]

_WHITE_MATTER_INTENSITY = 250.0
_SAMPLE_SPACING_MM = 2.0
# Ellipsoids around the brain and the head: centre and radii (mm).
_CENTRE = (0.0, -8.0, 0.0)
_BRAIN_RADII = (80.0, 100.0, 84.0)
_HEAD_RADII = (100.0, 120.0, 160.0)


@dataclass(frozen=True)
class Phantom:
    """A synthetic volume with its ground truth.

    Attributes
    ----------
    data
        float32 (X, Y, Z): intensities.
    affine
        float64 (4, 4): voxel indices to mm in RAS+.
    truth
        uint8 (X, Y, Z): 1 in voxels of the brain that are mostly lesion.
    brain
        bool (X, Y, Z): the brain, including cerebrospinal fluid.
    lesions
        The lesions.
    """

    data: FloatArray
    affine: Affine
    truth: NDArray[np.uint8]
    brain: NDArray[np.bool_]
    lesions: tuple[PhantomLesion, ...]


def make_phantom(
    seed: int = 0,
    shape: tuple[int, int, int] = (112, 112, 72),
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
    modality: str = "dwi",
    lesions: Sequence[PhantomLesion] | None = None,
    affine: ArrayLike | None = None,
    skull: bool = False,
) -> Phantom:
    """Make a synthetic volume of a brain with stroke lesions.

    Parameters
    ----------
    seed
        Seed of the anatomy: the same brain on any grid, in any modality and with
        any lesions.
    shape, spacing
        Number of voxels along each axis and their spacing in mm. The grid is
        centred on the brain; its axes run to left, anterior and superior.
    modality
        ``"dwi"`` or ``"flair"``.
    lesions
        The lesions. None draws one to three at typical sites; an empty sequence
        makes a healthy brain.
    affine
        (4, 4), voxel indices to mm in RAS+, oblique or not; replaces `spacing`.
    skull
        Whether to add scalp, face, neck and noise in the background. Without
        them, all voxels outside the brain are zero.

    Raises
    ------
    UsageError
        If the modality is unknown.
    GeometryError
        If the affine is singular.
    """
    if modality not in CONTRASTS:
        raise UsageError(f"unknown modality {modality!r}; choose from {', '.join(CONTRASTS)}")
    affine = _centred_affine(shape, spacing) if affine is None else np.array(affine, np.float64)
    if not np.linalg.det(affine[:3, :3]):
        raise GeometryError("the affine is singular: the phantom has no extent in some direction")
    anatomy = Anatomy(seed, CONTRASTS[modality])
    lesions = tuple(anatomy.draw_lesions() if lesions is None else lesions)
    near, samples = _sample_positions(shape, affine, _HEAD_RADII if skull else _BRAIN_RADII)
    parts = [anatomy.render(positions, lesions, skull) for positions in samples]
    signal, lesion, inside = np.mean(parts, axis=0)

    brain = _scatter(inside > 0.5, near, shape)
    truth = _scatter((lesion > 0.5) & (inside > 0.5), near, shape).astype(np.uint8)
    data = _add_noise(_scatter(signal, near, shape), anatomy.noise, seed)
    if not skull:
        data[~brain] = 0.0
    return Phantom(data, affine, truth, brain, lesions)


def _centred_affine(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Affine:
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    affine[:3, 3] = _CENTRE - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


def _sample_positions(
    shape: tuple[int, int, int], affine: Affine, radii: Point
) -> tuple[NDArray[np.bool_], list[FloatArray]]:
    """Voxels to render, and the positions at which to sample them.

    Only voxels near an ellipsoid of the given radii (mm) are rendered. Large
    voxels are sampled several times, since their intensity is a mean.

    Returns
    -------
    near
        bool (X * Y * Z,), True in voxels to render.
    samples
        Positions (3, N) in mm; the n-th column is always in the n-th of these
        voxels.
    """
    axes, spacing = affine[:3, :3], np.linalg.norm(affine[:3, :3], axis=0)
    centres = np.indices(shape, np.float64).reshape(3, -1).T @ axes.T + affine[:3, 3]
    near = (((centres - _CENTRE) / np.add(radii, spacing)) ** 2).sum(axis=1) < 1
    counts = [max(1, int(np.ceil(step / _SAMPLE_SPACING_MM - 0.3))) for step in spacing]
    fractions = product(*((np.arange(n) + 0.5) / n - 0.5 for n in counts))
    shifts = [axes @ fraction for fraction in fractions]
    return near, [(centres[near] + shift).T.astype(np.float32, order="C") for shift in shifts]


def _scatter(
    values: NDArray[T], near: NDArray[np.bool_], shape: tuple[int, int, int]
) -> NDArray[T]:
    """Put the values of the rendered voxels into a volume (X, Y, Z) of zeros."""
    data = np.zeros(near.shape, values.dtype)
    data[near] = values
    return data.reshape(shape)


def _add_noise(signal: FloatArray, noise: float, seed: int) -> FloatArray:
    """Scale to scanner intensities and add Rician noise, that of the magnitude of a complex one."""
    rng = np.random.default_rng([seed, 2])
    real, imaginary = noise * rng.standard_normal((2, *signal.shape), np.float32)
    magnitude: FloatArray = np.hypot(signal + real, imaginary)
    return _WHITE_MATTER_INTENSITY * magnitude
