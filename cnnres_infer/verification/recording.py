"""Segmenting a volume while keeping what the network saw and said."""

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.volume import FloatArray, Volume, load_volume
from cnnres_infer.engines import Engine
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.mask import Mask
from cnnres_infer.pipeline.slices import SliceBatch, axial_axes
from cnnres_infer.predictor import Predictor
from cnnres_infer.selection.select import Choice


@dataclass(frozen=True, eq=False)
class Study:
    """The volumes that are segmented together.

    Attributes
    ----------
    modality
        What `volume` is: ``"dwi"`` or ``"flair"``.
    volume
        The volume on whose grid the mask will lie.
    flair
        The FLAIR to be merged with it.
    brain_mask
        The brain on the grid of `volume`; None where it is to be found.
    """

    modality: str
    volume: Volume
    flair: Volume | None = None
    brain_mask: Volume | None = None

    @classmethod
    def load(
        cls, modality: str, volume: Path, flair: Path | None = None, brain_mask: Path | None = None
    ) -> Self:
        """Read the volumes.

        Raises
        ------
        InputError
            If one must not be segmented.
        """
        second, brain = (
            None if path is None else load_volume(path) for path in (flair, brain_mask)
        )
        return cls(modality, load_volume(volume), second, brain)


@dataclass(frozen=True, eq=False)
class Recording:
    """What a network saw of a study and what it said.

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


def record(bundle: Bundle, engine: Engine, study: Study) -> Recording:
    """Segment a study with an engine, as `Predictor.predict` does, and keep all of it.

    Raises
    ------
    UsageError
        If the study does not suit the model.
    InputError
        If a volume must not be segmented.
    EngineRunError
        If the engine fails.
    """
    recorder = _Recorder(bundle, engine)
    result = recorder.predict(
        study.volume, flair=study.flair, modality=study.modality, brain_mask=study.brain_mask
    )
    batches, outputs = zip(*recorder.seen, strict=True)
    z = np.concatenate([batch.z for batch in batches])
    return Recording(
        _names(z, study),
        np.concatenate([batch.images for batch in batches]),
        np.concatenate(outputs),
        result.mask,
    )


class _Recorder(Predictor):
    """A predictor that keeps every batch with the engine's output for it."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        super().__init__(bundle, Choice(engine))
        self.seen: list[tuple[SliceBatch, FloatArray]] = []

    def _outputs(
        self, batches: Iterator[SliceBatch], worker: Executor, clock: Stopwatch
    ) -> Iterator[tuple[SliceBatch, FloatArray]]:
        for pair in super()._outputs(batches, worker, clock):
            self.seen.append(pair)
            yield pair

    def _check_output(self, output: FloatArray, batch: SliceBatch) -> None:
        """Take whatever the engine says: who compares it will judge it."""


def _names(z: NDArray[np.intp], study: Study) -> tuple[str, ...]:
    axes, flips = axial_axes(study.volume.grid)
    last = study.volume.grid.shape[axes[2]] - 1
    modalities = [study.modality] + (["flair"] if study.flair else [])
    passes = len(z) // len(np.unique(z))
    labels = modalities if passes == len(modalities) else [" and ".join(modalities)]
    count = len(z) // passes
    return tuple(
        f"{labels[i // count]} slice {last - k if flips[2] else k}" for i, k in enumerate(z)
    )
