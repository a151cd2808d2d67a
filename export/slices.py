"""All slices of a case, before they are cut to the brain if the network expects that."""

from cnnres_infer.core.batch import SliceBatch
from cnnres_infer.core.case import Case
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.prepare import prepare
from cnnres_infer.pipeline.slices.batches import whole_slices
from cnnres_infer.pipeline.slices.geometry import SliceGeometry


def slices_of(case: Case, spec: ModelSpec) -> tuple[SliceGeometry, SliceBatch]:
    """Prepare a case and extract all of its slices with brain, whole and in one batch.

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
    (batch,) = whole_slices(
        prepared.volumes,
        prepared.brain.mask,
        prepared.geometry,
        spec.slices.of(case.modality),
        max(case.volume.grid.shape),
    )
    return prepared.geometry, batch
