"""Segmenting a case while keeping what the network saw and said."""

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
    """What a network saw of a case and what it said.

    Attributes
    ----------
    names
        Modality and voxel index of each image's slice.
    images
        float32 (N, C, H, W) in [0, 1], from inferior to superior; where DWI
        and FLAIR are merged, those of the DWI first.
    output
        float32 (N, 1, H, W): the probabilities.
    mask
        What became of them, on the volume's own grid.
    """

    names: tuple[str, ...]
    images: FloatArray
    output: FloatArray
    mask: Mask


def record_case(bundle: Bundle, engine: Engine, case: Case) -> Recording:
    """Segment a case with an engine, as `Predictor.predict` does, and keep all of it.

    The engine may say what it likes: whoever compares it will judge it.

    Raises
    ------
    InputError
        If a volume must not be segmented.
    EngineRunError
        If the engine fails.
    """
    seen: list[tuple[SliceBatch, FloatArray]] = []

    def observe(batch: SliceBatch, output: FloatArray) -> None:
        seen.append((batch, output))

    clock = Stopwatch()
    with single_blas_thread():
        prepared = prepare(case, bundle.spec, clock)
        probabilities = infer(prepared, bundle.spec, engine.run, engine.BATCH, clock, observe)
        mask, _ = binarize(probabilities, bundle.spec.mask)
    batches, outputs = zip(*seen, strict=True)
    return Recording(
        _names(np.concatenate([batch.z for batch in batches]), case),
        np.concatenate([batch.images for batch in batches]),
        np.concatenate(outputs),
        mask,
    )


def _names(z: NDArray[np.intp], case: Case) -> tuple[str, ...]:
    orientation, shape = case.volume.grid.orientation, case.volume.grid.shape
    modalities = [str(case.modality)] + (["flair"] if case.flair else [])
    passes = len(z) // len(np.unique(z))
    labels = modalities if passes == len(modalities) else [" and ".join(modalities)]
    count = len(z) // passes
    return tuple(
        f"{labels[i // count]} slice {orientation.slice_index(int(k), shape[orientation.axes[2]])}"
        for i, k in enumerate(z)
    )
