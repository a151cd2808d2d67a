"""The command line: parse, call, print, exit status."""

import json
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cnnres_infer import __version__
from cnnres_infer.cli.console import ERR, OUT, attempt, print_summary, progress, show
from cnnres_infer.cli.default_command import DefaultCommandGroup
from cnnres_infer.cli.signals import end_on_sigterm
from cnnres_infer.core.result import DEFAULT_FORMATS
from cnnres_infer.errors import VerificationError
from cnnres_infer.limits import DEFAULT_LIMITS, Limits, parse_size

app = typer.Typer(
    cls=DefaultCommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Segment acute stroke lesions on DWI and FLAIR MRI with CNN-Res.\n\n"
    "`cnnres-infer VOLUME` is short for `cnnres-infer predict VOLUME`.\n\n"
    "Research use only; not a medical device.",
    epilog="Exit status: 0 done, 1 internal error, 2 usage, 3 input or output refused, "
    "4 verification failed, 5 backend not usable.",
)

BundleOption = Annotated[
    Path | None, typer.Option(help="Folder of a model bundle; by default the one that is built in.")
]
BackendOption = Annotated[str, typer.Option(help="Backend: auto, or its name (see info).")]
PrecisionOption = Annotated[str, typer.Option(help="Precision: auto, fp32, ...")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads; by default one for each usable core.")
]
SelfCheckOption = Annotated[
    bool, typer.Option(help="Verify an engine on this machine before its first use.")
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict-backend", help="Refuse to pass over what should run here."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print timings, and tracebacks of errors.")
]
MaxVoxelsOption = Annotated[int, typer.Option(min=1, help="Most voxels of a volume.")]
MaxBytesOption = Annotated[str, typer.Option(help="Most bytes of a file, inflated: 1G, 500M.")]
MaxMemoryOption = Annotated[
    str | None,
    typer.Option(help="Most memory of this process: 2G (not the GPU's). Batches shrink to it."),
]
TimeoutOption = Annotated[float | None, typer.Option(help="Most seconds for one volume.")]
SignatureOption = Annotated[
    Path | None,
    typer.Option(metavar="KEY.pub", help="Refuse a bundle that this public key did not sign."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that stand.")]


def run() -> None:
    """Run the command line; the entry point of ``cnnres-infer``."""
    end_on_sigterm()
    app(prog_name="cnnres-infer")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None: ...


@app.command()
def predict(
    volumes: Annotated[list[Path], typer.Argument(help="NIfTI files (.nii, .nii.gz).")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for outputs; default: beside input.")
    ] = None,
    flair: Annotated[
        Path | None, typer.Option(help="FLAIR of the same session; merged with the DWI's answer.")
    ] = None,
    modality: Annotated[str, typer.Option(help="What VOLUME is: dwi or flair.")] = "dwi",
    brain_mask: Annotated[
        Path | None, typer.Option(help="Brain mask on the volume's grid; default: it is found.")
    ] = None,
    prob: Annotated[bool, typer.Option("--prob", help="Write the probability map too.")] = False,
    overlay: Annotated[bool, typer.Option(help="Draw the picture.")] = True,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="NAME", help="Write this output; may be repeated."),
    ] = None,
    overwrite: OverwriteOption = False,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    self_check: SelfCheckOption = True,
    strict_backend: StrictOption = False,
    max_voxels: MaxVoxelsOption = DEFAULT_LIMITS.max_voxels,
    max_bytes: MaxBytesOption = "1G",
    max_memory: MaxMemoryOption = None,
    timeout: TimeoutOption = None,
    require_signature: SignatureOption = None,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Segment volumes: mask, report and picture beside each, or in a folder."""
    reports: list[dict[str, Any]] = []
    first_failure = 0

    def work() -> dict[str, Any]:
        nonlocal first_failure
        from cnnres_infer.batch import Job
        from cnnres_infer.predictor import Predictor

        job = Job(out, flair, modality, brain_mask, _formats(prob, overlay, formats), overwrite)
        job.check(volumes)
        memory = None if max_memory is None else parse_size(max_memory)
        asked: dict[str, Any] = {
            "self_check": self_check,
            "strict_backend": strict_backend,
            "limits": Limits(max_voxels, parse_size(max_bytes), memory, timeout),
            "trusted_key": require_signature,
        }
        with Predictor.load(bundle, backend, precision, threads, **asked) as predictor:
            for volume in progress(volumes, quiet or as_json):
                segment = partial(job.segment, predictor, volume)
                status, entry = attempt(segment, verbose, volume, *job.others)
                first_failure = first_failure or status
                reports.append({"input": str(volume), **entry})
                if status:
                    job.leave_refusal(volume, entry)
                if not (quiet or as_json) and status == 0:
                    print_summary(volume, entry, verbose)
        return {}

    status, failure = attempt(work, verbose)
    if as_json:
        reports = reports or [failure]
        typer.echo(json.dumps(reports[0] if len(volumes) == 1 else reports, indent=2))
    raise typer.Exit(status or first_failure)


def _formats(prob: bool, overlay: bool, named: list[str] | None) -> tuple[str, ...]:
    """What to write: the named outputs or the usual ones, with or without map and picture."""
    wanted = list(named or DEFAULT_FORMATS) + (["probabilities"] if prob else [])
    return tuple(name for name in wanted if overlay or name != "overlay")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to fill.")] = Path(
        "cnnres-infer-demo"
    ),
    overwrite: OverwriteOption = False,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    self_check: SelfCheckOption = True,
    strict_backend: StrictOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write a synthetic volume with a known lesion and segment it."""

    def work() -> dict[str, Any]:
        from cnnres_infer.demo import run_demo
        from cnnres_infer.predictor import Predictor

        checks: dict[str, Any] = {"self_check": self_check, "strict_backend": strict_backend}
        with Predictor.load(bundle, backend, precision, threads, **checks) as predictor:
            return run_demo(predictor, out, overwrite=overwrite)

    status, entry = attempt(work, verbose)
    if as_json:
        typer.echo(json.dumps(entry, indent=2))
    elif status == 0:
        print_summary(Path(entry["demo"]["volume"]), entry, verbose)
        known = entry["demo"]
        OUT.print(f"  known lesion {known['truth_ml']:.2f} ml, Dice with it {known['dice']:.3f}")
    raise typer.Exit(status)


@app.command("verify")
def verify_command(
    volume: Annotated[
        Path | None, typer.Argument(help="NIfTI file to compare on, with --reference.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="PyTorch's outputs for VOLUME: python -m export reference made them."),
    ] = None,
    flair: Annotated[
        Path | None, typer.Option(help="FLAIR, if the reference was made with one.")
    ] = None,
    brain_mask: Annotated[
        Path | None, typer.Option(help="Brain mask, if the reference was made with one.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with figures and pictures here.")
    ] = None,
    overwrite: OverwriteOption = False,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compare an engine here with PyTorch's stored outputs, for reference slices or a VOLUME."""

    def work() -> dict[str, Any]:
        from cnnres_infer.host.atomic import check_free, write_all
        from cnnres_infer.outputs.verification_page import describe, html_page
        from cnnres_infer.predictor import Predictor
        from cnnres_infer.verification.agreement import compare
        from cnnres_infer.verification.reference import compare_volume, load_case
        from cnnres_infer.verification.self_check import record

        check_free([html] if html else [], overwrite)
        case = load_case(volume, reference, flair, brain_mask)
        with Predictor.load(bundle, backend, precision, threads, self_check=False) as predictor:
            opened = (predictor.engine, predictor.bundle)
            comparison = compare_volume(*opened, *case) if case else compare(*opened)
            engine = predictor.engine.describe()
            entry = describe(comparison, engine, predictor.bundle)
            if case is None:
                record(comparison.agreement, engine, predictor.bundle)
        if html:
            write_all({html: html_page(entry, comparison).encode()}, overwrite)
        return {**entry, "outputs": [str(html)] if html else []}

    status, entry = attempt(work, verbose)
    if as_json:
        typer.echo(json.dumps(entry, indent=2))
    elif status == 0:
        from cnnres_infer.outputs.verification_page import print_table

        print_table(entry, OUT)
    if status == 0 and entry["status"] != "passed":
        ERR.print("cnnres-infer: the engine disagrees with the network: do not use it here")
        status = VerificationError.exit_status
    raise typer.Exit(status)


@app.command()
def info(
    bundle: BundleOption = None, as_json: JsonOption = False, verbose: VerboseOption = False
) -> None:
    """Show the model, its variants, and which backends this machine can use."""
    from cnnres_infer.maintenance.info import describe, print_tables

    show(lambda: describe(bundle), print_tables, as_json, verbose)


@app.command()
def doctor(
    bundle: BundleOption = None, as_json: JsonOption = False, verbose: VerboseOption = False
) -> None:
    """Try every backend on this machine, and tell what is wrong and what mends it."""
    from cnnres_infer.maintenance.doctor import examine, print_findings

    show(lambda: examine(bundle), print_findings, as_json, verbose)


@app.command()
def build(
    precision: Annotated[str, typer.Option(help="fp16, int8 or fp32.")] = "fp16",
    sm: Annotated[
        list[int] | None,
        typer.Option(help="Compute capability to build for, as 86 for 8.6; may be repeated."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Slices at once: MIN,OPT,MAX.")] = "1,8,16",
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Build TensorRT engines ahead, for this GPU or with --sm for that of another machine."""

    def work() -> dict[str, Any]:
        from cnnres_infer.engines.tensorrt.build import BatchRange
        from cnnres_infer.maintenance.build import build_plans, progress_bar

        with progress_bar(ERR, as_json) as report:
            wanted = (precision, sm or [], BatchRange.parse(batch))
            return build_plans(bundle, backend, *wanted, report)

    def print_entry(entry: dict[str, Any], console: Console) -> None:
        from cnnres_infer.maintenance.build import print_plans

        print_plans(entry, console)

    show(work, print_entry, as_json, verbose)


class CacheAction(StrEnum):
    """What to do with the cache."""

    list = "list"
    clear = "clear"
    path = "path"


@app.command()
def cache(
    action: Annotated[CacheAction, typer.Argument(help="list, clear or path.")] = CacheAction.list,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show, empty or locate the cache of engines and measurements."""
    from cnnres_infer.maintenance import cache as cache_contents

    work: dict[CacheAction, Callable[[], dict[str, Any]]] = {
        CacheAction.list: lambda: cache_contents.describe(bundle),
        CacheAction.clear: cache_contents.clear,
        CacheAction.path: cache_contents.path,
    }
    show(work[action], cache_contents.print_contents, as_json, verbose)
