"""Segmentation of a case with a record of the network's inputs and outputs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.case import Case
from cnnres_infer.core.mask import Mask
from cnnres_infer.engines.base import Engine
from cnnres_infer.host.blas import single_blas_thread
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.infer import infer
from cnnres_infer.pipeline.mask import binarize
from cnnres_infer.pipeline.prepare import prepare
from cnnres_infer.pipeline.slices.batches import SliceBatch


@dataclass(frozen=True, eq=False)
class Recording:
    """The network's inputs and outputs for a case.

    Attributes
    ----------
    names
        Modality and voxel index of each image's slice.
    images
        float32 (N, C, H, W) in [0, 1], from inferior to superior. If DWI and
        FLAIR are run separately, those of the DWI come first.
    output
        float32 (N, 1, H, W): the network's probabilities.
    mask
        The final mask, on the volume's own grid.
    """

    names: tuple[str, ...]
    images: FloatArray
    output: FloatArray
    mask: Mask


def record_case(bundle: Bundle, engine: Engine, case: Case) -> Recording:
    """Segment a case as `Predictor.predict` does, and record inputs and outputs.

    The engine's output is not checked, since the recording is made to be
    compared with a reference.

    Parameters
    ----------
    bundle
        The bundle that the engine has loaded.
    engine
        The engine.
    case
        The case.

    Raises
    ------
    InputError
        If a volume must not be segmented.
    EngineRunError
        If the engine fails.
    """
    recorded: list[tuple[SliceBatch, FloatArray]] = []

    def observe(batch: SliceBatch, output: FloatArray) -> None:
        recorded.append((batch, output))

    clock = Stopwatch()
    with single_blas_thread():
        prepared = prepare(case, bundle.spec, clock)
        probabilities = infer(prepared, bundle.spec, engine.run, engine.BATCH, clock, observe)
        mask, _ = binarize(probabilities, bundle.spec.mask)
    batches, outputs = zip(*recorded, strict=True)
    return Recording(
        _slice_names(np.concatenate([batch.z for batch in batches]), case),
        np.concatenate([batch.images for batch in batches]),
        np.concatenate(outputs),
        mask,
    )


def _slice_names(z: NDArray[np.intp], case: Case) -> tuple[str, ...]:
    """Names of images whose slices, counted from inferior, are `z`, once for each pass."""
    orientation, shape = case.volume.grid.orientation, case.volume.grid.shape
    slices = shape[orientation.axes[2]]
    modalities = [str(case.modality)] + (["flair"] if case.flair else [])
    passes = len(z) // len(np.unique(z))
    labels = modalities if passes == len(modalities) else [" and ".join(modalities)]
    images_per_pass = len(z) // passes
    return tuple(
        f"{labels[i // images_per_pass]} slice {orientation.slice_index(int(k), slices)}"
        for i, k in enumerate(z)
    )
