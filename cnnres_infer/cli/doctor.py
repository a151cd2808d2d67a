"""``cnnres-infer doctor``."""

from dataclasses import replace
from typing import TYPE_CHECKING

from cnnres_infer.cli.console import show
from cnnres_infer.cli.flags import with_flags
from cnnres_infer.cli.options import BundleOption, DeviceOption, JsonOption, VerboseOption
from cnnres_infer.core.grouping import group_names
from cnnres_infer.core.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from cnnres_infer.maintenance.doctor import DoctorReport

_COLOURS = {"OK": "green", "NONE": "dim", "WARN": "yellow", "FAIL": "red"}


def doctor(
    bundle: BundleOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Try every backend on this machine, and report what is wrong and how to fix it."""

    def work() -> "DoctorReport":
        from cnnres_infer.maintenance.doctor import examine

        report = examine(bundle)
        worded = (
            replace(each, reason=with_flags(each.reason), remedy=with_flags(each.remedy))
            for each in report.findings
        )
        return replace(report, findings=tuple(worded))

    show(work, render, as_json, verbose)


def render(report: "DoctorReport", console: "Console") -> None:
    """Print one line per finding, merging equal ones, and the remedy below it."""
    from rich.markup import escape

    findings = group_names(
        (each.subject, (each.status, each.reason, each.remedy)) for each in report.findings
    )
    for (status, reason, remedy), subjects in findings.items():
        text = escape(printable(f"{', '.join(subjects)}: {reason}"))
        console.print(f"[{_COLOURS[status]}]{status:4}[/] {text}")
        if remedy:
            console.print(f"     to fix it: {printable(remedy)}", markup=False)
