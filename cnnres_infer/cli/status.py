"""``cnnres-infer status``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cnnres_infer.cli.console import show
from cnnres_infer.cli.options import JsonOption, VerboseOption
from cnnres_infer.core.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from cnnres_infer.service.status import StatusReport


def status(
    folder: Annotated[Path, typer.Argument(help="Folder that watch or listen works in.")] = Path(
        "cnnres-listen"
    ),
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> NoReturn:
    """Show how a service is doing: what waits, what failed, how long it takes."""
    from cnnres_infer.service.status import read_status

    show(lambda: read_status(folder), _render, as_json, verbose)


def _render(report: "StatusReport", console: "Console") -> None:
    lines = [
        f"{report.folder}: {'running' if report.running else 'not running'}",
        f"  {report.arriving} arriving, {report.working} working, {report.done} done, "
        f"{report.failed} failed",
        f"  {report.pushes} to push, {report.pushed} pushed",
    ]
    if report.oldest_age_s is not None:
        lines.append(f"  oldest case: {report.oldest_age_s:.0f} s")
    if report.latency_s:
        spread = ", ".join(_quantile(at, each) for at, each in report.latency_s.items())
        lines.append(f"  from the last file to the result: {spread}")
    lines += [f"  stuck: {reason}" for reason in report.stuck]
    lines += [f"  cannot push: {error}" for error in report.push_errors]
    lines += [f"  failed: {line.study} {line.code}" for line in report.last_failed]
    if report.failed:
        lines.append(f"  reason.txt in each folder of {report.folder / 'failed'} says what to do")
    for line in lines:
        console.print(printable(line), markup=False)


def _quantile(at: str, seconds: float) -> str:
    label = "median" if at == "0.5" else f"{float(at):.0%} within"
    return f"{label} {seconds:.1f} s"
