"""``cnnres-infer demo``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnres_infer.cli.console import show
from cnnres_infer.cli.options import (
    BackendOption,
    BundleOption,
    DeviceOption,
    JsonOption,
    MaxMemoryOption,
    OverwriteOption,
    PrecisionOption,
    SelfCheckOption,
    StrictOption,
    ThreadsOption,
    TimeoutOption,
    VerboseOption,
)
from cnnres_infer.cli.predict import print_report

if TYPE_CHECKING:
    from rich.console import Console

    from cnnres_infer.demo import DemoReport


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the outputs.")] = Path(
        "cnnres-infer-demo"
    ),
    overwrite: OverwriteOption = False,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    self_check: SelfCheckOption = True,
    strict_backend: StrictOption = False,
    max_memory: MaxMemoryOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write a synthetic volume with known lesions and segment it."""

    def work() -> "DemoReport":
        from cnnres_infer.cli.watchdog import watched
        from cnnres_infer.demo import run_demo
        from cnnres_infer.predictor import Predictor

        checks: dict[str, Any] = {"self_check": self_check, "strict_backend": strict_backend}
        with (
            watched(max_memory, timeout, as_json, verbose) as limits,
            Predictor.load(
                bundle, backend, precision, threads, limits=limits, **checks
            ) as predictor,
        ):
            return run_demo(predictor, out, overwrite=overwrite)

    def render(found: "DemoReport", console: "Console") -> None:
        known = found.demo
        written = (known.volume, known.truth, *found.outputs)
        print_report(known.volume.name, found.report, written, verbose, console)
        console.print(f"  known lesions {known.truth_ml:.2f} ml, Dice with them {known.dice:.3f}")

    show(work, render, as_json, verbose)
