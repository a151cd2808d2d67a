"""Running the network over all slices of a case, while a worker cuts and puts back."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeAlias

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.core.volume import Probabilities, Volume
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.fusion import fuse
from cnnres_infer.pipeline.prepare import Prepared
from cnnres_infer.pipeline.slices.back import VolumeAssembler
from cnnres_infer.pipeline.slices.batches import SliceBatch, to_batches

# Images (N, C, H, W) in [0, 1] to probabilities (N, 1, H, W), both float32.
Network: TypeAlias = Callable[[FloatArray], FloatArray]
# Is shown every batch with the network's output for it.
Observer: TypeAlias = Callable[[SliceBatch, FloatArray], None]


def infer(
    prepared: Prepared,
    spec: ModelSpec,
    network: Network,
    batch_size: int,
    clock: Stopwatch,
    observer: Observer | None = None,
) -> Probabilities:
    """Let the network answer for all slices of a case.

    Parameters
    ----------
    network
        What computes; it runs on the caller's thread.
    batch_size
        Slices that it gets at once.
    observer
        Is shown every batch with its output; where DWI and FLAIR are merged,
        all of the DWI first.

    Returns
    -------
    Probabilities
        On the grid of the case's volume.

    Raises
    ------
    LimitError
        If time is up.
    EngineRunError
        If the network fails.
    """

    def answer(channels: tuple[Volume, ...]) -> Probabilities:
        batches = to_batches(
            channels, prepared.brain.mask, prepared.geometry, spec.slices, batch_size
        )
        assembler = VolumeAssembler(channels[0].grid, prepared.geometry)
        _run(batches, network, assembler, clock, observer)
        return assembler.finish()

    if prepared.covered is None or spec.channels == 2:
        return answer(prepared.volumes)
    dwi, flair = (answer((volume,)) for volume in prepared.volumes)
    with clock("fuse"):
        return fuse(dwi, flair, prepared.covered, spec.fusion)


def _run(
    batches: Iterator[SliceBatch],
    network: Network,
    assembler: VolumeAssembler,
    clock: Stopwatch,
    observer: Observer | None,
) -> None:
    """Run all batches; while one is computed, a worker cuts the next and puts back the last."""
    with clock("restore"), ThreadPoolExecutor(1) as worker:
        put: Future[None] | None = None
        for batch, output in _outputs(batches, network, worker, clock):
            if observer is not None:
                observer(batch, output)
            if put is not None:
                put.result()
            put = worker.submit(assembler.put, batch, output)
    if put is not None:
        put.result()


def _outputs(
    batches: Iterator[SliceBatch], network: Network, worker: Executor, clock: Stopwatch
) -> Iterator[tuple[SliceBatch, FloatArray]]:
    """Each batch, cut by the worker, with its output."""
    coming = worker.submit(next, batches, None)
    while True:
        with clock("slices"):
            batch = coming.result()
        if batch is None:
            return
        coming = worker.submit(next, batches, None)
        with clock("engine"):
            output = network(batch.images)
        yield batch, output
