"""``cnnres-infer build``."""

from typing import TYPE_CHECKING, Annotated

import typer

from cnnres_infer.cli.console import phase_bars, show
from cnnres_infer.cli.options import (
    BackendOption,
    BundleOption,
    DeviceOption,
    JsonOption,
    VerboseOption,
)
from cnnres_infer.core.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from cnnres_infer.maintenance.build import BuildReport


def build(
    precision: Annotated[str, typer.Option(help="fp16, int8 or fp32.")] = "fp16",
    sm: Annotated[
        list[int] | None,
        typer.Option(
            help="Compute capability to build for, such as 86 for 8.6; may be repeated. "
            "Defaults to the GPU of this machine."
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Slices per batch: MIN,OPT,MAX.")] = "1,16,16",
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    device: DeviceOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Build TensorRT engines ahead of time, for this GPU or, with --sm, for others."""

    def work() -> "BuildReport":
        from cnnres_infer.engines.tensorrt.build import BatchRange
        from cnnres_infer.maintenance.build import build_plans

        with phase_bars(hidden=as_json) as progress:
            wanted = (precision, sm or [], BatchRange.parse(batch))
            return build_plans(bundle, backend, *wanted, progress)

    show(work, _render, as_json, verbose)


def _render(report: "BuildReport", console: "Console") -> None:
    for plan in report.plans:
        how = f"built in {plan.seconds:.1f} s" if plan.seconds else "already in the cache"
        console.print(
            f"{report.backend} {report.precision}, SM {plan.sm}: "
            f"{plan.bytes / 1e6:.1f} MB, {how}\n  {printable(str(plan.path))}",
            markup=False,
        )
    console.print(f"note: {report.licence}", markup=False)
