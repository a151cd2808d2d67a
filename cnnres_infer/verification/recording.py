"""Segmentation of a case with a record of the network's inputs and outputs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.batch import SliceBatch
from cnnres_infer.core.case import Case
from cnnres_infer.core.mask import Mask
from cnnres_infer.engines.base import Engine
from cnnres_infer.host.blas import single_blas_thread
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.infer import infer
from cnnres_infer.pipeline.mask import binarize
from cnnres_infer.pipeline.prepare import prepare


@dataclass(frozen=True, eq=False)
class Recording:
    """The network's inputs and outputs for a case, as whole slices.

    Attributes
    ----------
    names
        Modality and voxel index of each image's slice.
    images
        float32 (N, C, H, W) in [0, 1], from inferior to superior. If DWI and
        FLAIR are run separately, those of the DWI come first.
    output
        float32 (N, 1, H, W): the network's probabilities, zero where it computed
        none.
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
        found = infer(prepared, bundle.spec, engine.run, engine.BATCH, clock, observe)
        mask, _ = binarize(found, bundle.spec.mask)
    z = np.concatenate([batch.z for batch, _ in recorded])
    passes = len(z) // len(np.unique(z))
    order = _in_order(z, passes)
    return Recording(
        _slice_names(z[order], passes, case),
        np.concatenate([batch.framed(batch.images) for batch, _ in recorded])[order],
        np.concatenate([batch.framed(output) for batch, output in recorded])[order],
        mask,
    )


def _in_order(z: NDArray[np.intp], passes: int) -> NDArray[np.intp]:
    """Indices that sort the slices of each pass from inferior to superior."""
    by_pass = z.reshape(passes, -1)
    starts = np.arange(passes)[:, None] * by_pass.shape[1]
    return np.asarray((starts + by_pass.argsort(axis=1)).ravel())


def _slice_names(z: NDArray[np.intp], passes: int, case: Case) -> tuple[str, ...]:
    """Names of images whose slices, counted from inferior, are `z`, once for each pass."""
    orientation, shape = case.volume.grid.orientation, case.volume.grid.shape
    slices = shape[orientation.axes[2]]
    modalities = [str(case.modality)] + (["flair"] if case.flair else [])
    labels = modalities if passes == len(modalities) else [" and ".join(modalities)]
    images_per_pass = len(z) // passes
    return tuple(
        f"{labels[i // images_per_pass]} slice {orientation.slice_index(int(k), slices)}"
        for i, k in enumerate(z)
    )
