"""What is done to a case before the network sees it: brain, slice geometry, FLAIR on its grid."""

from dataclasses import dataclass

import numpy as np

from cnnres_infer.codes import ErrorCode, Notice
from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.core.case import Case
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import GeometryError
from cnnres_infer.pipeline.brain import Brain, find_brain, given_brain
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.quality import grid_notices, input_notices, read_notices
from cnnres_infer.pipeline.resample import regrid
from cnnres_infer.pipeline.slices.geometry import SliceGeometry


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case that is ready for the network.

    Attributes
    ----------
    brain
        The brain in the case's volume.
    geometry
        How the volume's voxels map to the network's images.
    volumes
        The volume, and the FLAIR on its grid where the case has one.
    covered
        bool (X, Y, Z): where that FLAIR has voxels; None without one.
    notices
        What is odd about the input.
    """

    brain: Brain
    geometry: SliceGeometry
    volumes: tuple[Volume, ...]
    covered: BoolArray | None
    notices: tuple[Notice, ...]


def prepare(case: Case, spec: ModelSpec, clock: Stopwatch) -> Prepared:
    """Find the brain, lay the network's images over it, and bring the FLAIR onto the grid.

    Raises
    ------
    UsageError
        If the case does not suit the model.
    InputError
        If there is no brain, or the volumes do not belong together.
    LimitError
        If time is up.
    """
    spec.check_suits(case.modality, case.flair is not None)
    volume = case.volume
    with clock("brain"):
        given = case.brain_mask
        brain = find_brain(volume) if given is None else given_brain(given, volume)
        geometry = SliceGeometry.of(volume.grid, brain.mask, spec.slices)
        notices = input_notices(volume, brain, case.modality, spec.slices)
    volumes: tuple[Volume, ...] = (volume,)
    covered, share_covered = None, 1.0
    if case.flair is not None:
        with clock("register"):
            aligned, covered = regrid(case.flair, volume.grid)
            share_covered = _share_covered(case.flair, covered, brain)
        volumes = (volume, aligned)
    return Prepared(
        brain,
        geometry,
        volumes,
        covered,
        (
            *read_notices(case),
            *notices,
            *grid_notices(geometry.share_outside(brain.mask), 1 - share_covered),
        ),
    )


def _share_covered(flair: Volume, covered: BoolArray, brain: Brain) -> float:
    """Share of the brain where a FLAIR has voxels, 0 to 1."""
    share = np.count_nonzero(covered & brain.mask) / np.count_nonzero(brain.mask)
    if not share:
        raise GeometryError(
            f"{flair.name} shows nothing of the brain: are they of one session?",
            code=ErrorCode.GRID_OVERLAP,
        )
    return share
