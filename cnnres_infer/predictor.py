"""The whole way from a volume to its result."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.provenance import Provenance
from cnnres_infer.core.result import Result
from cnnres_infer.engines import AUTO
from cnnres_infer.engines.base import Engine, run_checked
from cnnres_infer.errors import UsageError
from cnnres_infer.host.blas import single_blas_thread
from cnnres_infer.host.deadline import time_limit
from cnnres_infer.host.machine import peak_memory_mb, resident_bytes
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.outputs.save import save
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.infer import infer
from cnnres_infer.pipeline.mask import find_lesions
from cnnres_infer.pipeline.prepare import Prepared, prepare
from cnnres_infer.pipeline.quality import output_notices
from cnnres_infer.pipeline.restriction import judge, known_adc
from cnnres_infer.pipeline.slices.back import LesionMap
from cnnres_infer.readers.case import Source, check_size, read_case
from cnnres_infer.readers.pick import Pick
from cnnres_infer.selection.fallback import EngineChain
from cnnres_infer.selection.select import Selection, select


class Predictor:
    """A loaded model that segments volumes; threads may share it.

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

    @property
    def selection(self) -> Selection:
        """What computes now, and why not another."""
        return self._engines.selection

    @property
    def engine(self) -> Engine:
        """What computes now; another where one has failed."""
        return self.selection.engine

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
        return cls(opened, selection, limits)

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
            The b-value in s/mm2 to segment; by default the one nearest to 1000.

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
        clock = Stopwatch(self.limits.timeout)
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
        if isinstance(source, Case):
            given = [f"{name}=" for name, value in beside.items() if value is not None]
            if given:
                raise UsageError(f"a Case holds all of a scan; leave out {', '.join(given)}")
            for volume in source.volumes.values():
                check_size(volume, self.limits)
            case = source
        else:
            parsed = Modality.parse(modality or Modality.DWI)
            # Before anything is read, which may take long.
            spec = self.bundle.spec
            # A study may hold the FLAIR that is not given.
            from_study = isinstance(source, (str, Path)) and spec.channels == 2
            spec.check_modalities(parsed, flair is not None or from_study)
            with_flair = flair is None and Modality.FLAIR in spec.modalities
            with clock("read"):
                case = read_case(
                    source,
                    affine=affine,
                    flair=flair,
                    adc=adc,
                    b0=b0,
                    modality=parsed,
                    brain_mask=brain_mask,
                    limits=self.limits,
                    pick=Pick(tuple(series or ()), bvalue, with_flair),
                )
        with single_blas_thread():
            return self._segment(case, clock)

    def close(self) -> None:
        """Close the engine, once the calls under way have returned; later ones fail."""
        self._engines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _segment(self, case: Case, clock: Stopwatch) -> Result:
        spec = self.bundle.spec
        prepared = prepare(case, spec, clock)
        adc = known_adc(case, prepared.brain, clock)
        answer = partial(self._infer, prepared, clock)
        lesion_map, selection = self._engines.run(answer, clock)
        with clock("mask"):
            found = find_lesions(lesion_map, spec.mask)
            verdict = judge(found, adc, spec.relative_adc_below)
        return Result(
            volume=case.volume,
            mask=verdict.mask,
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
                *prepared.notices,
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

    def _infer(self, prepared: Prepared, clock: Stopwatch, engine: Engine) -> LesionMap:
        spec, volume = self.bundle.spec, prepared.volumes[0]
        batch_size = self.limits.batch_size(
            volume.name,
            (engine.LEAST, engine.BATCH),
            volume.grid.shape,
            spec.channels * spec.slices.size**2,
            resident_bytes(),
        )
        return infer(prepared, spec, partial(run_checked, engine), batch_size, clock)
