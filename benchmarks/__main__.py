"""Command line of the benchmarks: ``python -m benchmarks end-to-end``."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.end_to_end import TORCH_PIPELINE, measure, run_torch_pipeline

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
BundleOption = Annotated[Path | None, typer.Option(help="Folder of a bundle; default: built in.")]


@app.command()
def end_to_end(
    bundle: BundleOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Rounds; figures are medians.")] = 7,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures here.")
    ] = None,
) -> None:
    """Measure a 112 x 112 x 73 volume from file to outputs, cold and warm."""
    figures = measure(bundle, runs)
    console = Console()
    columns = ("what", "seconds", "to PyTorch eager", "peak MB", "self-check")
    table = Table(*columns, title=figures["machine"])
    for name, case in figures["cases"].items():
        eager = figures["cases"][name.split(",")[0] + ", PyTorch eager"]["seconds"]
        peak = f"{case['peak_mb']:.0f}" if "peak_mb" in case else ""
        ratio = f"{eager / case['seconds']:.2f} x"
        table.add_row(name, f"{case['seconds']:.3f}", ratio, peak, case.get("self_check", ""))
    console.print(table)
    network = figures["cases"]["network, ONNX Runtime fp32"]["seconds"]
    predict = figures["cases"]["predict, ONNX Runtime fp32"]["seconds"]
    console.print(f"warm predict / network alone: {predict / network:.2f}")
    for stage, seconds in figures["stages"].items():
        console.print(f"  {stage:>9} {seconds:.3f} s")
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")


@app.command(TORCH_PIPELINE, hidden=True)
def torch_pipeline(
    volume: Path, out: Annotated[Path, typer.Option()], bundle: BundleOption = None
) -> None:
    """Segment a volume with PyTorch eager in place of our engines."""
    run_torch_pipeline(volume, bundle, out)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
