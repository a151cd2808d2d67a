"""``cnnres-infer predict``, the default command."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnres_infer.cli.console import (
    attempt,
    exit_status,
    print_error,
    print_json,
    printing,
    progress,
    stdout,
    warn,
)
from cnnres_infer.cli.flags import with_flags
from cnnres_infer.cli.options import (
    BackendOption,
    BundleOption,
    BValueOption,
    DeviceOption,
    FormatsOption,
    JsonOption,
    MaxBytesOption,
    OverwriteOption,
    PrecisionOption,
    QuietOption,
    SelfCheckOption,
    SeriesOption,
    SignatureOption,
    StrictOption,
    ThreadsOption,
    VerboseOption,
    VolumeMemoryOption,
    VolumeTimeoutOption,
)
from cnnres_infer.codes import WarningCode
from cnnres_infer.core.failure import Failure
from cnnres_infer.core.text import counted, printable
from cnnres_infer.errors import LimitError
from cnnres_infer.limits import DEFAULT_LIMITS, Limits, parse_size

if TYPE_CHECKING:
    from rich.console import Console

    from cnnres_infer.batch import CaseReport
    from cnnres_infer.outputs.writers.report import Refusal, Report


def predict(
    volumes: Annotated[
        list[Path],
        typer.Argument(
            help="NIfTI files (.nii, .nii.gz), or DICOM studies (folders, .zip, files)."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the outputs; defaults to that of the input."),
    ] = None,
    flair: Annotated[
        Path | None,
        typer.Option(help="FLAIR of the same session; its result is merged with that of the DWI."),
    ] = None,
    adc: Annotated[
        Path | None,
        typer.Option(help="ADC map of the DWI, to check that lesions restrict diffusion."),
    ] = None,
    b0: Annotated[
        Path | None,
        typer.Option(
            help="Instead of --adc, the image without diffusion weighting; a 4-D VOLUME with "
            ".bval has its own."
        ),
    ] = None,
    modality: Annotated[str, typer.Option(help="Modality of VOLUME: dwi or flair.")] = "dwi",
    brain_mask: Annotated[
        Path | None,
        typer.Option(help="Brain mask on the grid of VOLUME; by default the brain is extracted."),
    ] = None,
    series: SeriesOption = None,
    bvalue: BValueOption = None,
    prob: Annotated[bool, typer.Option("--prob", help="Also write the probability map.")] = False,
    overlay: Annotated[bool, typer.Option(help="Write the overlay image.")] = True,
    formats: FormatsOption = None,
    identify: Annotated[
        bool,
        typer.Option("--identify", help="Name the patient of a DICOM study in the HTML report."),
    ] = False,
    overwrite: OverwriteOption = False,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    self_check: SelfCheckOption = True,
    strict_backend: StrictOption = False,
    max_voxels: Annotated[
        int, typer.Option(min=1, help="Largest number of voxels in a volume.")
    ] = DEFAULT_LIMITS.max_voxels,
    max_bytes: MaxBytesOption = "1G",
    max_memory: VolumeMemoryOption = None,
    timeout: VolumeTimeoutOption = None,
    require_signature: SignatureOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Segment volumes; write a mask, a report and an overlay next to each, or to a folder."""
    entries: list[CaseReport | Refusal] = []
    silent = quiet or as_json

    def print_all(failure: Failure | None = None) -> None:
        if as_json:
            reports: list[Any] = list(entries) or [{"status": "failed", "error": failure}]
            print_json(reports[0] if len(volumes) == 1 else reports)

    def work() -> None:
        from cnnres_infer.batch import Job
        from cnnres_infer.cli.watchdog import Watchdog
        from cnnres_infer.host.atomic import WRITING
        from cnnres_infer.outputs.writers.report import Refusal
        from cnnres_infer.predictor import Predictor

        wanted = _formats(prob, overlay, formats)
        job = Job(
            out=out,
            flair=flair,
            adc=adc,
            b0=b0,
            modality=modality,
            brain_mask=brain_mask,
            series=tuple(series or ()),
            bvalue=bvalue,
            formats=wanted,
            overwrite=overwrite,
            identify=identify,
            wording=with_flags,
        )
        job.check(volumes)
        memory = None if max_memory is None else parse_size(max_memory)
        limits = Limits(max_voxels, parse_size(max_bytes), memory, timeout)
        options: dict[str, Any] = {
            "self_check": self_check,
            "strict_backend": strict_backend,
            "limits": limits,
            "trusted_key": require_signature,
        }

        def ended(volume: Path | None, error: LimitError) -> None:
            failure = Failure.of(error, with_flags)
            if volume is not None:
                refusal = job.refuse(volume, error)
                failure = refusal.error
                entries.append(refusal)
            print_error(failure, verbose)
            # Not while other outputs are being written, which may be what takes so long.
            if volume is not None and WRITING.acquire(blocking=False):
                job.leave(refusal)
            for each in volumes[len(entries) :] if volume is not None else ():
                message = (
                    f"{each}: not segmented, since the process had to end before; run it again"
                )
                entries.append(Refusal(each, replace(failure, message=message)))
                warn(f"cnnres-infer: {failure.code}: {message}")
            print_all(failure)

        watchdog = Watchdog(limits, ended)
        with watchdog.watch():
            predictor = Predictor.load(bundle, backend, precision, threads, **options)
        with predictor:
            reports = job.run(predictor, volumes, watchdog.watch)
            for entry in progress(reports, len(volumes), silent):
                entries.append(entry)
                print_entry(entry, silent, verbose)

    failure = attempt(work, verbose)
    print_all(failure)
    refused = next((entry.error for entry in entries if entry.error), None)
    raise typer.Exit(exit_status(failure or refused))


def print_report(
    name: str, report: "Report", outputs: tuple[Path, ...], verbose: bool, console: "Console"
) -> None:
    """Print a short summary of the report of a segmented volume."""
    engine, seconds = report.provenance.engine, sum(report.timings_s.values())
    console.print(
        f"{printable(name)}: {counted(len(report.lesions), 'lesion')}, {report.volume_ml:.2f} ml "
        f"({engine.backend}, {engine.precision}, {seconds:.2f} s)",
        markup=False,
    )
    # Unless a warning says so.
    if not report.diffusion.checked and WarningCode.INPUT_DIFFUSION not in {
        warning.code for warning in report.warnings
    }:
        console.print(f"  {printable(report.diffusion.note)}", markup=False)
    for warning in report.warnings:
        text = with_flags(warning.text)
        console.print(f"  warning {warning.code}: {printable(text)}", markup=False)
    for path in outputs:
        console.print(f"  {printable(str(path))}", markup=False)
    for name, reason in report.omitted.items():
        console.print(f"  not written: {name}: {printable(reason)}", markup=False)
    if verbose:
        for stage, spent in report.timings_s.items():
            console.print(f"  {stage:>10} {spent:8.3f} s")


def _formats(prob: bool, overlay: bool, named: list[str] | None) -> tuple[str, ...]:
    """Names of the outputs to write, given the options."""
    from cnnres_infer.outputs.writers import DEFAULT_FORMATS

    wanted = list(named or DEFAULT_FORMATS) + (["probabilities"] if prob else [])
    return tuple(name for name in wanted if overlay or name != "overlay")


def print_entry(entry: "CaseReport | Refusal", silent: bool, verbose: bool) -> None:
    """Print the report of a volume unless `silent`, or the error that it was refused with."""
    if entry.error is not None:
        print_error(entry.error, verbose)
    elif not silent:
        with printing():
            print_report(entry.input.name, entry.report, entry.outputs, verbose, stdout())
