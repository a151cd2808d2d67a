"""All slices of a case, as the network sees them at inference."""

from cnnres_infer.core.case import Case
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.prepare import prepare
from cnnres_infer.pipeline.slices.batches import SliceBatch, to_batches
from cnnres_infer.pipeline.slices.geometry import SliceGeometry


def slices_of(case: Case, spec: ModelSpec) -> tuple[SliceGeometry, SliceBatch]:
    """Prepare a case and cut all of its slices with brain, in one batch.

    Parameters
    ----------
    case
        With a FLAIR only if the model has two channels.

    Raises
    ------
    UsageError
        If the case does not suit the model.
    InputError
        If it has no brain, or its volumes do not belong together.
    """
    prepared = prepare(case, spec, Stopwatch())
    (batch,) = to_batches(
        prepared.volumes,
        prepared.brain.mask,
        prepared.geometry,
        spec.slices,
        max(case.volume.grid.shape),
    )
    return prepared.geometry, batch
