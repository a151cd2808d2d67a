"""The whole way from a volume to its result."""

from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.bundle.bundle import MODALITIES, Bundle, ModelSpec
from cnnres_infer.core.result import Provenance, Result
from cnnres_infer.core.volume import (
    FloatArray,
    Probabilities,
    Volume,
    load_volume,
    volume_from_array,
    volume_from_image,
)
from cnnres_infer.engines import AUTO, Engine, variant_in
from cnnres_infer.errors import EngineRunError, GeometryError, UsageError, VolumeError
from cnnres_infer.host.machine import single_blas_thread
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.pipeline.brain import Brain, find_brain, given_brain
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.mask import binarize
from cnnres_infer.pipeline.quality import (
    grid_notices,
    input_notices,
    output_notices,
    read_notices,
)
from cnnres_infer.pipeline.resample import regrid
from cnnres_infer.pipeline.slices import BoolArray, Canvas, SliceBatch, SliceGeometry, to_batches
from cnnres_infer.selection.select import Choice, choose

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

Source: TypeAlias = "Path | str | Volume | Nifti1Image | NDArray[Any]"


class Predictor:
    """A loaded model that segments volumes.

    Examples
    --------
    >>> with Predictor.load() as predictor:  # doctest: +SKIP
    ...     result = predictor.predict("dwi.nii.gz")
    ...     result.mask.volume_ml, result.save("out")
    """

    def __init__(self, bundle: Bundle, choice: Choice, limits: Limits = DEFAULT_LIMITS) -> None:
        self.bundle = bundle
        self.choice = choice
        self._failure: EngineRunError | None = None
        self.limits = limits

    @property
    def engine(self) -> Engine:
        """What computes now; another where one has failed."""
        return self.choice.engine

    @classmethod
    def load(
        cls,
        bundle: Path | str | None = None,
        backend: str = AUTO,
        precision: str = AUTO,
        threads: int | None = None,
        *,
        self_check: bool = True,
        strict_backend: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        trusted_key: Path | str | None = None,
    ) -> Self:
        """Open a bundle with a backend.

        Parameters
        ----------
        bundle
            Its folder; by default the model that comes with the package.
        backend, precision
            ``"auto"``, or what to use and nothing else.
        threads
            Threads to compute with; by default one for each usable core.
        self_check
            Whether an engine that was not verified on this machine yet must
            agree with the bundle's reference slices; see
            `cnnres_infer.verification.self_check`.
        strict_backend
            Whether ``"auto"`` refuses rather than passes over what should run
            here and does not, or fails while it runs.
        limits
            What one volume may cost.
        trusted_key
            File of the public key that must have signed the bundle; by default
            no signature is asked for.

        Raises
        ------
        BundleError
            If the bundle is incomplete, was altered, or is not signed as asked.
        BackendUnavailableError
            If nothing can run it as asked.
        VerificationError
            If what could run it disagrees with the network.
        """
        opened = Bundle.open(bundle, trusted_key)
        choice = choose(
            opened, backend, precision, threads, check=self_check, strict=strict_backend
        )
        return cls(opened, choice, limits)

    def predict(
        self,
        source: Source,
        *,
        affine: NDArray[Any] | None = None,
        flair: "Source | None" = None,
        modality: str = "dwi",
        brain_mask: "Source | None" = None,
    ) -> Result:
        """Segment a volume.

        Parameters
        ----------
        source
            The DWI (or what `modality` says): a path, a nibabel image, or an
            array (X, Y, Z) together with `affine`.
        affine
            (4, 4), voxels to mm in RAS+, for all arrays among the arguments and
            for files that do not say where they lie.
        flair
            The FLAIR of the same session, on any grid; its answer is merged
            with that of the DWI.
        modality
            ``"dwi"`` or ``"flair"``: what `source` is.
        brain_mask
            The brain on the grid of `source`; by default it is found.

        Returns
        -------
        Result
            On the grid of `source`.

        Raises
        ------
        UsageError
            If the arguments contradict each other or the model.
        InputError
            If an input must not be segmented.
        EngineRunError
            If the backend fails, and none may or can take over.
        """
        _check_usage(self.bundle.spec, modality, flair is not None)
        clock = Stopwatch(self.limits.timeout)
        with clock("read"):
            volume = self._volume(source, affine, modality)
            second = None if flair is None else self._volume(flair, affine, "flair")
            given = None if brain_mask is None else self._volume(brain_mask, affine, "brain mask")
        with single_blas_thread():
            return self._segment(modality, volume, second, given, clock)

    def close(self) -> None:
        """Let go of the engine."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _volume(self, source: Source, affine: NDArray[Any] | None, name: str) -> Volume:
        if isinstance(source, (str, Path)):
            return load_volume(source, self.limits, affine)
        if isinstance(source, Volume):
            return source
        if isinstance(source, np.ndarray):
            if affine is None:
                raise VolumeError("an array needs affine=..., voxels to mm in RAS+ (4, 4)")
            return volume_from_array(source, affine, name)
        return volume_from_image(source, name, affine)

    def _segment(
        self,
        modality: str,
        volume: Volume,
        second: Volume | None,
        given: Volume | None,
        clock: Stopwatch,
    ) -> Result:
        with clock("brain"):
            brain = find_brain(volume) if given is None else given_brain(given, volume)
            geometry = SliceGeometry.of(volume.grid, brain.mask, self.bundle.spec.slices)
            notices = input_notices(volume, brain, modality, self.bundle.spec.slices)
        channels: tuple[Volume, ...] = (volume,)
        covered, share_covered = None, 1.0
        if second is not None:
            with clock("register"):
                aligned, covered = regrid(second, volume.grid)
                share_covered = _share_covered(second, covered, brain)
            channels = (volume, aligned)
        probabilities = self._answer(channels, covered, brain, geometry, clock)
        with clock("mask"):
            mask, lesions = binarize(probabilities, self.bundle.spec.mask)
        others = {"flair": second, "brain mask": given}
        inputs = {modality: volume.name} | {k: v.name for k, v in others.items() if v}
        return Result(
            volume,
            mask,
            probabilities,
            lesions,
            clock.seconds,
            self._provenance(inputs, brain),
            (
                *self.choice.warnings,
                *read_notices(volume, second, given),
                *notices,
                *grid_notices(geometry.share_outside(brain.mask), 1 - share_covered),
                *output_notices(mask, brain),
            ),
        )

    def _answer(
        self,
        channels: tuple[Volume, ...],
        covered: BoolArray | None,
        brain: Brain,
        geometry: SliceGeometry,
        clock: Stopwatch,
    ) -> Probabilities:
        """Answer of one engine for all slices: where it fails, the next begins anew."""
        while True:
            try:
                if covered is None or self.bundle.spec.channels == 2:
                    return self._probabilities(channels, brain, geometry, clock)
                return self._merged(channels, covered, brain, geometry, clock)
            except EngineRunError as error:
                with clock("next engine"):
                    self._take_next(error)

    def _take_next(self, failure: EngineRunError) -> None:
        """Let another engine take the place of one that failed, for later volumes too."""
        # Once closed, it says no more of why it failed.
        self._failure = self._failure or failure
        if self.choice.go_on is not None:
            # The next one may need its memory; what a lost device refuses must not end the volume.
            with suppress(Exception):
                self.engine.close()
        self.choice = self.choice.next(self._failure)
        self._failure = None

    def _merged(
        self,
        pair: tuple[Volume, ...],
        covered: BoolArray,
        brain: Brain,
        geometry: SliceGeometry,
        clock: Stopwatch,
    ) -> Probabilities:
        """Answer for DWI and FLAIR on one grid, FLAIR known where it is `covered`."""
        dwi, flair = (
            self._probabilities((volume,), brain, geometry, clock).data for volume in pair
        )
        with clock("fuse"):
            merged = self.bundle.spec.fusion.merge(dwi, flair)
            return Probabilities(np.where(covered, merged, dwi), pair[0].grid)

    def _probabilities(
        self,
        channels: tuple[Volume, ...],
        brain: Brain,
        geometry: SliceGeometry,
        clock: Stopwatch,
    ) -> Probabilities:
        spec, voxels = self.bundle.spec, channels[0].data.size
        pixels = spec.channels * spec.slices.size**2
        sizes = (self.engine.LEAST, self.engine.BATCH)
        size = self.limits.batch_size(channels[0].name, sizes, voxels, pixels)
        batches = to_batches(channels, brain.mask, geometry, spec.slices, size)
        canvas = Canvas(channels[0].grid, geometry)
        # While a batch is computed, one worker cuts the next and puts back the one before.
        with clock("restore"), ThreadPoolExecutor(1) as worker:
            put: Future[None] | None = None
            for batch, output in self._outputs(batches, worker, clock):
                if put is not None:
                    put.result()
                put = worker.submit(canvas.put, batch, output)
        if put is not None:
            put.result()
        return canvas.finish()

    def _outputs(
        self, batches: Iterator[SliceBatch], worker: Executor, clock: Stopwatch
    ) -> Iterator[tuple[SliceBatch, FloatArray]]:
        """Each batch, cut by the worker, with its output.

        The engine runs on the caller's thread: those for GPUs keep state for each.
        """
        coming = worker.submit(next, batches, None)
        while True:
            with clock("slices"):
                batch = coming.result()
            if batch is None:
                return
            coming = worker.submit(next, batches, None)
            with clock("engine"):
                output = self.engine.run(batch.images)
            self._check_output(output, batch)
            yield batch, output

    def _check_output(self, output: FloatArray, batch: SliceBatch) -> None:
        """Refuse what no network can have said, whatever the backend makes of it."""
        expected = (len(batch.z), 1, *batch.images.shape[2:])
        if output.shape != expected or not np.isfinite(output).all():
            raise EngineRunError(
                f"the backend gave no probabilities (shape {output.shape}, or not finite) for "
                f"slices {batch.z[0]} to {batch.z[-1]}: choose another --backend or --precision",
                code="E-ENGINE-OUTPUT",
            )

    def _provenance(self, inputs: dict[str, str], brain: Brain) -> Provenance:
        spec, engine = self.bundle.spec, self.engine.describe()
        return Provenance(
            spec.name,
            spec.version,
            self.bundle.digest,
            replace(engine, variant=variant_in(self.bundle, engine.variant)),
            self.choice.verification,
            self.choice.passed_over,
            inputs,
            brain.source,
        )


def _check_usage(spec: ModelSpec, modality: str, with_flair: bool) -> None:
    if modality not in MODALITIES:
        raise UsageError(f"modality {modality!r} is none of {', '.join(MODALITIES)}")
    if with_flair and modality == "flair":
        raise UsageError("give the DWI first: two FLAIR volumes cannot be merged")
    if modality not in spec.modalities or (with_flair and "flair" not in spec.modalities):
        raise UsageError(f"the model {spec.name} knows {' and '.join(spec.modalities)} only")
    if spec.channels == 2 and not with_flair:
        raise UsageError(f"the model {spec.name} needs DWI and FLAIR: add --flair FILE")


def _share_covered(second: Volume, covered: BoolArray, brain: Brain) -> float:
    """Share of the brain where a second volume has voxels, 0 to 1."""
    share = np.count_nonzero(covered & brain.mask) / np.count_nonzero(brain.mask)
    if not share:
        raise GeometryError(
            f"{second.name} shows nothing of the brain: are they of one session?",
            code="E-GRID-OVERLAP",
        )
    return share
