"""Inference over all slices of a case, overlapped with preprocessing."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.batch import SliceBatch
from cnnres_infer.core.case import Modality
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.fusion import Fused
from cnnres_infer.pipeline.prepare import Prepared
from cnnres_infer.pipeline.slices.back import LesionMap, SliceOutputs
from cnnres_infer.pipeline.slices.batches import to_batches

# Maps images (N, C, H, W) in [0, 1] to probabilities (N, 1, H, W), both float32.
Network: TypeAlias = Callable[[FloatArray], FloatArray]
# Called with each batch and the network's output for it.
Observer: TypeAlias = Callable[[SliceBatch, FloatArray], None]


def infer(
    prepared: Prepared,
    spec: ModelSpec,
    network: Network,
    batch_size: int,
    clock: Stopwatch,
    observer: Observer | None = None,
    beside: Callable[[], object] = lambda: None,
) -> LesionMap:
    """Run the network on all slices of a case.

    Parameters
    ----------
    prepared
        The preprocessed case.
    spec
        The model's specification.
    network
        The network; called on the caller's thread.
    batch_size
        Maximum number of slices per batch.
    clock
        Measures the time of each stage, and enforces the time limit.
    observer
        Called with each batch and its output. If DWI and FLAIR are run
        separately, all batches of the DWI come first. Slices come in any order.
    beside
        Called on another thread while the network runs, once for DWI and FLAIR each if
        these are run separately. What it raises ends the call once all slices are computed;
        a call that ends early waits for it. Waiting counts as ``"slices"``.

    Returns
    -------
    LesionMap
        On the grid of the case's volume.

    Raises
    ------
    LimitError
        If the time limit is exceeded.
    CancelledError
        If the work is cancelled.
    EngineRunError
        If the network fails.
    """
    runs = [(prepared.volumes, prepared.modalities[0])]
    if spec.channels == 1:
        pairs = zip(prepared.volumes, prepared.modalities, strict=True)
        runs = [((volume,), modality) for volume, modality in pairs]
    done, total = 0, len(runs) * len(prepared.geometry.z)
    clock.tell("engine", done, total)

    def run_channels(channels: tuple[Volume, ...], modality: Modality) -> SliceOutputs:
        nonlocal done
        slices = spec.slices.of(modality)
        batches = to_batches(channels, prepared.brain.mask, prepared.geometry, slices, batch_size)
        found = SliceOutputs(channels[0].grid, prepared.geometry)
        for batch, output in _outputs(batches, network, clock, beside):
            if observer is not None:
                observer(batch, output)
            found.put(batch, output)
            done += len(batch.z)
            clock.tell("engine", done, total)
        return found

    found = [run_channels(*each) for each in runs]
    if len(found) == 1 or prepared.covered is None:
        return found[0]
    dwi, flair = found
    return Fused(dwi, flair, prepared.geometry, prepared.covered, spec.fusion)


def _outputs(
    batches: Iterator[SliceBatch],
    network: Network,
    clock: Stopwatch,
    beside: Callable[[], object],
) -> Iterator[tuple[SliceBatch, FloatArray]]:
    """Yield each batch with the network's output.

    Meanwhile, one worker extracts the next batch, and another one calls `beside`.
    """
    with clock.part("slices"):
        batch = next(batches, None)
    with ThreadPoolExecutor(2) as workers:
        collected = workers.submit(beside)
        while batch is not None:
            upcoming = workers.submit(next, batches, None)
            with clock.part("engine"):
                output = network(batch.images)
            yield batch, output
            with clock.part("slices"):
                batch = upcoming.result()
        with clock.part("slices"):
            collected.result()
