"""``cnnres-infer inspect``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnres_infer.cli.console import attempt, present, wide_console
from cnnres_infer.cli.flags import with_flags
from cnnres_infer.cli.options import BValueOption, JsonOption, SeriesOption, VerboseOption
from cnnres_infer.core.failure import Failure

if TYPE_CHECKING:
    from rich.console import Console

    from cnnres_infer.readers.dicom.inspect import StudyReport


def inspect(
    study: Annotated[Path, typer.Argument(help="DICOM study: a folder, .zip or file.")],
    modality: Annotated[str, typer.Option(help="What would be segmented: dwi or flair.")] = "dwi",
    series: SeriesOption = None,
    bvalue: BValueOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show the series of a DICOM study, what each was taken for, and what would be used."""

    def work() -> "StudyReport":
        from cnnres_infer.core.case import Modality
        from cnnres_infer.readers.dicom.inspect import inspect as inspect_study
        from cnnres_infer.readers.pick import Pick

        pick = Pick(tuple(series or ()), bvalue)
        return inspect_study(study, Modality.parse(modality), pick=pick)

    report = attempt(work, verbose)
    status = present(report, _render, as_json)
    if not isinstance(report, Failure) and report.error is not None:
        status = report.error.exit_status
    raise typer.Exit(status)


def _render(report: "StudyReport", console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("series", "description", "files", "slices", "taken for", "because of", "used as")
    for each in report.series:
        cells = (
            "" if each.number is None else str(each.number),
            each.description,
            str(each.files),
            str(each.frames),
            each.what,
            with_flags(each.why),
            ", ".join(each.used_as),
        )
        table.add_row(*map(Text, cells))
    wide_console().print(table)
    for problem in report.problems:
        console.print(f"cannot be used: {with_flags(problem)}", markup=False)
    for note in report.notes:
        console.print(with_flags(note), markup=False)
    if report.error is not None:
        message = with_flags(report.error.message)
        console.print(f"would be refused: {report.error.code}: {message}", markup=False)
