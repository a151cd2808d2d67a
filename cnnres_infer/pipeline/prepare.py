"""Preprocessing of a case: brain mask, slice geometry, and the FLAIR on the volume's grid."""

from dataclasses import dataclass

import numpy as np

from cnnres_infer.codes import ErrorCode, Notice
from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.core.case import Case, Modality, Role
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import GeometryError
from cnnres_infer.pipeline.brain import Brain, brain_from_mask, find_brain
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.quality import (
    coverage_notices,
    flair_notices,
    input_notices,
    outside_notices,
    read_notices,
)
from cnnres_infer.pipeline.resample import regrid
from cnnres_infer.pipeline.slices.geometry import SliceGeometry
from cnnres_infer.pipeline.values import check_different, check_values


@dataclass(frozen=True, eq=False)
class Prepared:
    """A preprocessed case.

    Attributes
    ----------
    brain
        The brain mask of the case's volume.
    geometry
        How the volume's voxels map to the network's images.
    volumes
        The volume, and the FLAIR on its grid if the case has one.
    modalities
        The modality of each.
    covered
        bool (X, Y, Z), True where the FLAIR has voxels; None without a FLAIR.
    fraction_covered
        Fraction of the brain where it has.
    """

    brain: Brain
    geometry: SliceGeometry
    volumes: tuple[Volume, ...]
    modalities: tuple[Modality, ...]
    covered: BoolArray | None
    fraction_covered: float


def prepare(case: Case, spec: ModelSpec, clock: Stopwatch) -> Prepared:
    """Find the brain, place the network's images on it, and resample the FLAIR to the grid.

    Parameters
    ----------
    case
        The case.
    spec
        The model's specification.
    clock
        Measures the time of each stage, and enforces the time limit.

    Raises
    ------
    UsageError
        If the model does not support the case's modalities.
    InputError
        If a volume cannot be an image, no brain is found, or the volumes do not
        overlap.
    LimitError
        If the time limit is exceeded.
    """
    spec.check_modalities(case.modality, case.flair is not None)
    volume = case.volume
    with clock("brain"):
        for role, each in case.volumes.items():
            # `brain_from_mask` checks that.
            if role != Role.BRAIN_MASK:
                check_values(each, "" if each is volume else role)
        if case.flair is not None:
            check_different(case.flair, Role.FLAIR, volume)
        given = case.brain_mask
        brain = find_brain(volume) if given is None else brain_from_mask(given, volume)
        geometry = SliceGeometry.of(volume.grid, brain.mask, spec.slices)
    volumes: tuple[Volume, ...] = (volume,)
    modalities: tuple[Modality, ...] = (case.modality,)
    covered, fraction_covered = None, 1.0
    if case.flair is not None:
        with clock("register"):
            aligned, covered, fraction_covered = on_grid(case.flair, Role.FLAIR, volume.grid, brain)
        volumes, modalities = (volume, aligned), (case.modality, Modality.FLAIR)
    return Prepared(brain, geometry, volumes, modalities, covered, fraction_covered)


def case_notices(case: Case, prepared: Prepared, spec: ModelSpec) -> tuple[Notice, ...]:
    """What is unusual about a preprocessed case; nothing that is computed depends on it."""
    volume, *others = prepared.volumes
    brain = prepared.brain
    notices = input_notices(volume, brain, case.modality, spec.slices)
    if prepared.covered is not None:
        (flair,) = others
        notices += flair_notices(flair, prepared.covered & brain.mask)
    return (
        *read_notices(case),
        *notices,
        *coverage_notices("FLAIR", "only the DWI is used", prepared.fraction_covered),
        *outside_notices(prepared.geometry.fraction_outside(brain.mask)),
    )


def on_grid(
    volume: Volume, role: Role, grid: Grid, brain: Brain
) -> tuple[Volume, BoolArray, float]:
    """Resample a volume to the grid of a brain, a part of which it must show.

    Returns
    -------
    volume
        On `grid`.
    covered
        bool (X, Y, Z), True where the original has voxels.
    fraction_covered
        Fraction of the brain where it has, above 0 and up to 1.

    Raises
    ------
    GeometryError
        If it shows nothing of the brain.
    """
    aligned, covered = regrid(volume, grid)
    fraction = np.count_nonzero(covered & brain.mask) / np.count_nonzero(brain.mask)
    if not fraction:
        what = {Role.FLAIR: "FLAIR", Role.ADC: "ADC map"}.get(role, role)
        raise GeometryError(
            f"{volume.name}: the {what} does not cover the brain; give volumes of the same session",
            code=ErrorCode.GRID_OVERLAP,
        )
    return aligned, covered, fraction
