"""``cnnres-infer verify``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnres_infer.cli.console import attempt, present, warn
from cnnres_infer.cli.options import (
    BackendOption,
    BundleOption,
    DeviceOption,
    JsonOption,
    MaxMemoryOption,
    OverwriteOption,
    PrecisionOption,
    SignatureOption,
    ThreadsOption,
    TimeoutOption,
    VerboseOption,
)
from cnnres_infer.core.failure import Failure
from cnnres_infer.core.text import printable
from cnnres_infer.errors import VerificationError

if TYPE_CHECKING:
    from rich.console import Console

    from cnnres_infer.verification.report import VerificationReport


def verify(
    volume: Annotated[
        Path | None, typer.Argument(help="NIfTI file to run the comparison on; needs --reference.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="PyTorch's outputs for VOLUME, written by python -m export reference."),
    ] = None,
    flair: Annotated[
        Path | None, typer.Option(help="FLAIR, if the reference was made with one.")
    ] = None,
    brain_mask: Annotated[
        Path | None, typer.Option(help="Brain mask, if the reference was made with one.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write an HTML page with figures, a histogram and the worst slices."),
    ] = None,
    overwrite: OverwriteOption = False,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    max_memory: MaxMemoryOption = None,
    timeout: TimeoutOption = None,
    require_signature: SignatureOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compare an engine with PyTorch's stored outputs, on reference slices or VOLUME."""

    def work() -> "VerificationReport":
        from cnnres_infer.cli.watchdog import watched
        from cnnres_infer.host.atomic import check_free
        from cnnres_infer.outputs.verification_page import save_page
        from cnnres_infer.predictor import Predictor
        from cnnres_infer.verification.reference import load_case
        from cnnres_infer.verification.report import verify

        check_free([html] if html else [], overwrite)
        with watched(max_memory, timeout, as_json, verbose) as limits:
            case = load_case(volume, reference, flair, brain_mask)
            checks: dict[str, Any] = {"self_check": False, "trusted_key": require_signature}
            with Predictor.load(
                bundle, backend, precision, threads, limits=limits, **checks
            ) as predictor:
                report = verify(predictor.bundle, predictor.engine, case)
            return save_page(report, html, overwrite) if html else report

    outcome = attempt(work, verbose)
    status = present(outcome, _render, as_json)
    if not isinstance(outcome, Failure) and not outcome.passed:
        warn("cnnres-infer: the engine disagrees with the network; do not use it on this machine")
        status = VerificationError.exit_status
    raise typer.Exit(status)


def _render(report: "VerificationReport", console: "Console") -> None:
    from rich.markup import escape
    from rich.table import Table

    engine = report.engine
    ran = f"{engine.backend}, {engine.provider}, {engine.precision}: {report.status}"
    title = escape(f"{printable(report.comparison.subject)}\n{printable(ran)}")
    table = Table("agreement with PyTorch", "measured", "required", title=title)
    for row in report.figures():
        table.add_row(*row)
    console.print(table)
    for path in report.outputs:
        console.print(f"  {printable(str(path))}", markup=False)
