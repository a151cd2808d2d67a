"""``cnnres-infer info``."""

from dataclasses import replace
from typing import TYPE_CHECKING

from cnnres_infer.cli.console import show
from cnnres_infer.cli.flags import with_flags
from cnnres_infer.cli.options import BundleOption, JsonOption, SignatureOption, VerboseOption
from cnnres_infer.core.grouping import group_names
from cnnres_infer.core.text import counted, printable

if TYPE_CHECKING:
    from rich.console import Console

    from cnnres_infer.core.provenance import Verification
    from cnnres_infer.core.spec import SliceSpec
    from cnnres_infer.maintenance.info import BackendInfo, BundleInfo, InfoReport


def info(
    bundle: BundleOption = None,
    require_signature: SignatureOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show the model, its variants, and which backends this machine can use."""

    def work() -> "InfoReport":
        from cnnres_infer.maintenance.info import describe

        report = describe(bundle, require_signature)
        return replace(report, backends={n: _worded(b) for n, b in report.backends.items()})

    show(work, _render, as_json, verbose)


def _worded(backend: "BackendInfo") -> "BackendInfo":
    probe = backend.probe
    reason, remedy = with_flags(probe.reason), with_flags(probe.remedy)
    return replace(backend, probe=replace(probe, reason=reason, remedy=remedy))


def _render(report: "InfoReport", console: "Console") -> None:
    bundle = report.bundle
    folder = printable(str(bundle.folder))
    console.print(f"bundle {folder}\nsha256 {bundle.sha256}", markup=False)
    _print_model(bundle, report.cores, console)
    usable = {name: each for name, each in report.backends.items() if each.probe.usable}
    _print_backends(usable, console)
    lacking = group_names(
        (name, f"{each.probe.reason}; {each.probe.remedy}")
        for name, each in report.backends.items()
        if name not in usable
    )
    for reason, names in lacking.items():
        console.print(f"not usable: {', '.join(names)}: {printable(reason)}", markup=False)


def _print_model(bundle: "BundleInfo", cores: int, console: "Console") -> None:
    from rich.markup import escape
    from rich.table import Table

    spec = bundle.spec
    title = escape(printable(f"{spec.name} {spec.version}"))
    table = Table(title=title, show_header=False)
    for label, value in (
        ("modalities", ", ".join(spec.modalities)),
        ("input", f"{counted(spec.channels, 'channel')}, {_sizes(spec.slices)}"),
        ("fusion", f"{spec.fusion.rule} (DWI {spec.fusion.dwi_weight})"),
        ("variants", ", ".join(bundle.variants)),
        ("missed its accuracy gate", ", ".join(bundle.failed) or "none"),
        ("usable cores", str(cores)),
    ):
        table.add_row(label, escape(printable(value)))
    console.print(table)


def _sizes(slices: "SliceSpec") -> str:
    if len(slices.sides) == 1:
        return f"slices of {slices.size} x {slices.size} pixels of {slices.spacing} mm"
    *others, last = map(str, slices.sides)
    sides = f"{', '.join(others)} or {last}"
    return f"slices cut to the brain, {sides} pixels of {slices.spacing} mm a side"


def _print_backends(backends: "dict[str, BackendInfo]", console: "Console") -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("backend", "runtime", "precisions", "verified", title="usable backends")
    for name, backend in backends.items():
        verified = [_outcome(*each) for each in backend.verifications.items()]
        precisions = ", ".join(backend.precisions)
        reason = escape(printable(backend.probe.reason))
        table.add_row(name, reason, precisions, "\n".join(map(escape, verified)))
    for column in (table.columns[0], table.columns[3]):
        column.no_wrap = True
    console.print(table)


def _outcome(precision: str, verification: "Verification") -> str:
    outcome = "passed" if verification.passed else "failed"
    return (
        f"{precision}: {outcome} on {verification.when[:10]}\n"
        f"  Dice {verification.dice_mean:.4f} on {counted(verification.slices, 'slice')}"
    )
