"""The whole way from a volume to its result."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.mask import Mask
from cnnres_infer.core.provenance import Provenance
from cnnres_infer.core.result import Result
from cnnres_infer.engines import AUTO
from cnnres_infer.engines.base import Engine, run_checked
from cnnres_infer.errors import BundleError, UsageError
from cnnres_infer.host.blas import single_blas_thread
from cnnres_infer.host.deadline import cancellable, time_limit
from cnnres_infer.host.machine import peak_memory_mb, resident_bytes
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.outputs.save import save
from cnnres_infer.pipeline.deadline import Progress, Stopwatch
from cnnres_infer.pipeline.infer import infer
from cnnres_infer.pipeline.mask import find_lesions
from cnnres_infer.pipeline.prepare import Prepared, case_notices, prepare
from cnnres_infer.pipeline.quality import output_notices
from cnnres_infer.pipeline.restriction import judge, known_adc
from cnnres_infer.pipeline.slices.back import LesionMap
from cnnres_infer.readers.case import Source, check_size, read_case
from cnnres_infer.readers.pick import Pick
from cnnres_infer.selection.fallback import EngineChain
from cnnres_infer.selection.select import Selection, select

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Opening:
    """What a predictor was loaded with, and is loaded with again in another process.

    The folder and the key are absolute paths; `digest` tells whether the bundle there is
    still the same.
    """

    bundle: Path | None
    digest: str
    backend: str
    precision: str
    threads: int | None
    self_check: bool
    strict_backend: bool
    limits: Limits
    trusted_key: Path | None


class Predictor:
    """A loaded model that segments volumes; threads may share it.

    It can be pickled, by how it was loaded: whoever unpickles it opens the same bundle again,
    with the same arguments.

    Parameters
    ----------
    bundle
        The model.
    selection
        The engine that runs it; the predictor closes it.
    limits
        What one volume may cost.

    Examples
    --------
    >>> with Predictor.load() as predictor:  # doctest: +SKIP
    ...     result = predictor.predict("dwi.nii.gz")
    ...     result.mask.volume_ml, result.save("out")
    """

    def __init__(
        self, bundle: Bundle, selection: Selection, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.bundle = bundle
        self.limits = limits
        self._engines = EngineChain(selection)
        self._opening: _Opening | None = None

    @property
    def selection(self) -> Selection:
        """What computes now, and why not another."""
        return self._engines.selection

    @property
    def engine(self) -> Engine:
        """What computes now; another where one has failed."""
        return self.selection.engine

    @property
    def closed(self) -> bool:
        """Whether it was closed, and segments nothing any more."""
        return self._engines.closed

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
            Whether ``"auto"`` fails instead of skipping what should run here
            and does not, or fails while it runs.
        limits
            What one volume may cost. Opening may take as long as a volume.
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
        with time_limit(limits.timeout):
            opened = Bundle.open(bundle, trusted_key)
            selection = select(
                opened, backend, precision, threads, check=self_check, strict=strict_backend
            )
        predictor = cls(opened, selection, limits)
        predictor._opening = _Opening(
            None if bundle is None else Path(bundle).absolute(),
            opened.digest,
            backend,
            precision,
            threads,
            self_check,
            strict_backend,
            limits,
            None if trusted_key is None else Path(trusted_key).absolute(),
        )
        return predictor

    def __reduce__(self) -> tuple[Any, ...]:
        if self.closed:
            raise UsageError("the predictor is closed: pickle it before, or load it again")
        if self._opening is None:
            raise UsageError(
                "only what `Predictor.load` returned can be pickled, since it is loaded again"
            )
        return _reopened, (type(self), self._opening)

    def predict(
        self,
        source: Source | Case,
        *,
        affine: NDArray[Any] | None = None,
        flair: Source | None = None,
        adc: Source | None = None,
        b0: Source | None = None,
        modality: str | None = None,
        brain_mask: Source | None = None,
        series: Sequence[str] | None = None,
        bvalue: float | None = None,
        progress: Progress | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Result:
        """Segment a volume.

        Parameters
        ----------
        source
            The DWI (or what `modality` says): a path, a `Volume`, a nibabel
            image, or a pair of an array (X, Y, Z) and its affine (4, 4), voxels
            to mm in RAS+. A `Case` holds all volumes, and is given alone.
        affine
            The affine of `source`, where that is an array or a file that does
            not say where it lies.
        flair
            The FLAIR of the same session, on any grid, with an affine of its own
            where it is an array; its answer is merged with that of the DWI.
        adc
            The ADC map of a DWI, on any grid and in any unit. The ADC of each
            lesion is measured, and what does not restrict diffusion is taken out
            of the mask if the model says from which ADC on; see
            `Result.rejected`.
        b0
            Instead of `adc`, the image without diffusion weighting of the DWI's
            series, from which the ADC is computed. A 4-D file holds its own.
        modality
            ``"dwi"``, the default, or ``"flair"``: what `source` is.
        brain_mask
            The brain on the grid of `source`; by default it is found.
        series
            Numbers or UIDs of the series of a DICOM study that the volume and its
            FLAIR are taken from; by default they are recognised.
        bvalue
            The b-value in s/mm2 to segment of a series; by default the one nearest
            to 1000. Of a single volume, its b-value, where nothing beside it says
            so; `b0` rejects lesions only if that is known.
        progress
            Called on this thread as ``progress(stage, done, total)`` when a stage begins
            and ends, and after each batch of slices in the stage ``"engine"``. Stages are
            those of `Result.timings`, except for ``"slices"``, which is part of
            ``"engine"`` here. What it raises ends the call.
        cancel
            Asked on this thread between stages and batches, and within long stages; once it
            returns True, the call ends. An `Event.is_set` of `threading` will do.

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
        CancelledError
            If `cancel` returned True. The predictor can be used as before.
        """
        if isinstance(series, str):
            raise UsageError(f"`series` is the text {series!r}; give a list of numbers or UIDs")
        clock = Stopwatch(self.limits.timeout, progress)
        beside = {
            "affine": affine,
            "flair": flair,
            "adc": adc,
            "b0": b0,
            "modality": modality,
            "brain_mask": brain_mask,
            "series": series,
            "bvalue": bvalue,
        }
        with self._engines.kept_open(), cancellable(cancel):
            case = self._case(source, beside, clock)
            with single_blas_thread():
                return self._segment(case, clock)

    def close(self) -> None:
        """Close the engine, once the calls under way have returned; later ones fail."""
        self._engines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _case(self, source: Source | Case, beside: dict[str, Any], clock: Stopwatch) -> Case:
        """The case that was given, or is read from what was given beside its volume."""
        if isinstance(source, Case):
            given = [f"{name}=" for name, value in beside.items() if value is not None]
            if given:
                raise UsageError(f"a Case holds all of a scan; leave out {', '.join(given)}")
            for volume in source.volumes.values():
                check_size(volume, self.limits)
            return source
        modality, series, bvalue = (beside.pop(name) for name in ("modality", "series", "bvalue"))
        parsed, flair = Modality.parse(modality or Modality.DWI), beside["flair"]
        # Before anything is read, which may take long.
        spec = self.bundle.spec
        # A study may hold the FLAIR that is not given.
        from_study = isinstance(source, (str, Path)) and spec.channels == 2
        spec.check_modalities(parsed, flair is not None or from_study)
        with_flair = flair is None and Modality.FLAIR in spec.modalities
        pick = Pick(tuple(series or ()), bvalue, with_flair)
        with clock("read"):
            return read_case(source, modality=parsed, limits=self.limits, pick=pick, **beside)

    def _segment(self, case: Case, clock: Stopwatch) -> Result:
        spec = self.bundle.spec
        prepared = prepare(case, spec, clock)
        adc = known_adc(case, prepared.brain, clock)
        # Collected once, even if another engine has to do all of the rest again.
        notices = cache(partial(case_notices, case, prepared, spec))
        answer = partial(self._infer, prepared, notices, clock)
        lesion_map, selection = self._engines.run(answer, clock)
        with clock("mask"):
            found = find_lesions(lesion_map, spec.mask)
            verdict = judge(found, adc, spec.restriction)
        result = Result(
            volume=case.volume,
            mask=verdict.mask,
            brain=Mask(prepared.brain.mask.view(np.uint8), case.volume.grid),
            on_demand=lesion_map,
            lesions=verdict.lesions,
            timings=clock.seconds,
            provenance=Provenance(
                spec.name,
                spec.version,
                self.bundle.digest,
                selection.engine.describe(),
                selection.verification,
                selection.skipped,
                {part: volume.name for part, volume in case.volumes.items()},
                prepared.brain.source,
            ),
            warnings=(
                *selection.warnings,
                *notices(),
                *verdict.notices,
                *output_notices(verdict.mask, prepared.brain, len(verdict.rejected)),
            ),
            saver=save,
            diffusion=verdict.check,
            rejected=verdict.rejected,
            rejected_mask=verdict.rejected_mask,
            sources=tuple(volume.source for volume in case.volumes.values()),
            peak_memory_mb=peak_memory_mb(),
        )
        _record(result)
        return result

    def _infer(
        self,
        prepared: Prepared,
        beside: Callable[[], object],
        clock: Stopwatch,
        engine: Engine,
    ) -> LesionMap:
        spec, volume = self.bundle.spec, prepared.volumes[0]
        batch_size = self.limits.batch_size(
            volume.name,
            (engine.LEAST, engine.BATCH),
            volume.grid.shape,
            spec.channels * spec.slices.size**2,
            resident_bytes(),
        )
        network = partial(run_checked, engine)
        return infer(prepared, spec, network, batch_size, clock, beside=beside)


def _record(result: Result) -> None:
    """Log what was done, without anything that might name the patient or the user."""
    for notice in result.warnings:
        _log.warning("%s: %s", notice.code, notice.code.meaning)
    _log.info(
        "segmented %s voxels in %.3f s (%s)",
        " x ".join(map(str, result.volume.grid.shape)),
        sum(result.timings.values()),
        ", ".join(f"{stage} {spent:.3f}" for stage, spent in result.timings.items()),
    )


def _reopened(kind: type[Predictor], opening: _Opening) -> Predictor:
    """Load what was pickled in another process."""
    predictor = kind.load(
        opening.bundle,
        opening.backend,
        opening.precision,
        opening.threads,
        self_check=opening.self_check,
        strict_backend=opening.strict_backend,
        limits=opening.limits,
        trusted_key=opening.trusted_key,
    )
    if predictor.bundle.digest != opening.digest:
        predictor.close()
        raise BundleError(
            f"{predictor.bundle.folder}: not the bundle that the pickled predictor was loaded "
            "from; give all processes the same one",
            code=ErrorCode.BUNDLE_HASH,
        )
    return predictor
