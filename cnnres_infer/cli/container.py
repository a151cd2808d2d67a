"""``cnnres-infer app``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnres_infer.cli.console import attempt, exit_status, print_error, printing, stdout
from cnnres_infer.cli.flags import with_flags
from cnnres_infer.cli.options import VerboseOption
from cnnres_infer.core.failure import Failure
from cnnres_infer.core.text import printable

if TYPE_CHECKING:
    from cnnres_infer.service.app import AppReport


def container(
    manifest: Annotated[
        Path, typer.Option(metavar="FILE", help="Manifest of a MONAI application.")
    ] = Path("/etc/monai/app.json"),
    verbose: VerboseOption = False,
) -> None:
    """Segment one study in a container of Mercure or MONAI Deploy, which set its folders."""

    def work() -> "AppReport":
        from cnnres_infer.batch import Job
        from cnnres_infer.service.app import find_contract, run_app

        return run_app(find_contract(os.environ, manifest), Job(wording=with_flags))

    report = attempt(work, verbose)
    if isinstance(report, Failure):
        raise typer.Exit(exit_status(report))
    if report.entry.error is not None:
        print_error(report.entry.error, verbose)
    else:
        with printing():
            stdout().print(f"{report.platform}: {len(report.files)} files", markup=False)
            for path in report.files:
                stdout().print(f"  {printable(path.name)}", markup=False)
    raise typer.Exit(exit_status(report.entry.error))
