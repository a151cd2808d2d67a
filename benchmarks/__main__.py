"""Command line of the benchmarks: ``python -m benchmarks --help``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from benchmarks import cohort as cohorts
from benchmarks import compare as comparison
from benchmarks import end_to_end as whole
from benchmarks import gpu as on_gpu
from benchmarks import images as image_kinds
from benchmarks import scale as scaling
from benchmarks import stages as staged
from benchmarks.charts import bar_chart
from benchmarks.common import SHAPE
from benchmarks.profile import profile
from benchmarks.rewritings import rewritings
from benchmarks.steps import steps
from cnnres_infer.cli.console import wide_console
from cnnres_infer.cli.default_command import run_tool
from cnnres_infer.cli.options import DeviceOption
from cnnres_infer.host.atomic import write_all
from export.parity import print_not_usable

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
BundleOption = Annotated[Path | None, typer.Option(help="Model bundle; default: the built-in one.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")]
ChartOption = Annotated[Path | None, typer.Option("--chart", help="Draw a chart to this PNG file.")]
BackendOption = Annotated[str, typer.Option(help="Backend to measure.")]
PrecisionOption = Annotated[str, typer.Option(help="Precision to measure.")]

_SLOWEST = 20


@app.command("compare")
def compare_command(
    bundle: BundleOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Rounds; figures are medians.")] = 7,
    json_file: JsonOption = None,
    chart: ChartOption = None,
) -> None:
    """Measure the network on 60 slices: PyTorch, ONNX Runtime, our engines, and a U-Net."""
    figures = comparison.compare(bundle, runs)
    columns = ("contestant", "seconds", "speed-up", "share of rate", "Dice", "peak MB")
    table = Table(*columns, title=figures["machine"])
    measured = {name: row for name, row in figures["rows"].items() if "seconds" in row}
    for name, row in measured.items():
        table.add_row(name, *_compared(row))
    console = wide_console()
    console.print(table)
    print_not_usable(figures["rows"], console)
    for name, rate in figures["giga_multiply_adds_per_second"].items():
        console.print(f"matrix product in {name}: {rate:.0f} G multiply-adds per second")
    _write(json_file, figures)
    if chart is not None:
        bars = {name: row["seconds"] for name, row in measured.items()}
        bar_chart(chart, f"{figures['slices']} slices, {figures['machine']}", bars, "s")


@app.command("rewritings")
def rewritings_command(
    bundle: BundleOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Rounds; figures are medians.")] = 7,
    json_file: JsonOption = None,
) -> None:
    """Measure the effect of exact rewritings of the network in each CPU runtime."""
    figures = rewritings(bundle, runs)
    engines = list(next(iter(figures["rows"].values())))
    table = Table("rewritings", *engines, title=figures["machine"])
    for title, row in figures["rows"].items():
        table.add_row(title, *(f"{row[engine]:.3f}" for engine in engines))
    console = wide_console()
    console.print(table)
    print_not_usable(figures["not_usable"], console)
    _write(json_file, figures)


@app.command("profile")
def profile_command(
    variant: Annotated[str, typer.Argument(help="Variant to measure.")] = "int8-cpu",
    bundle: BundleOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs; figures are medians.")] = 15,
    json_file: JsonOption = None,
) -> None:
    """Measure where ONNX Runtime spends its time in a variant, node by node."""
    figures = profile(bundle, variant, runs)
    console = wide_console()
    total = sum(figures["kinds"].values())
    title = f"{variant}, {figures['slices']} slices: {total:.1f} ms"
    table = Table("operator", "ms", title=title)
    for kind, spent in figures["kinds"].items():
        table.add_row(kind, f"{spent:.2f}")
    console.print(table)
    table = Table("node", "ms", title="slowest nodes")
    for name, spent in list(figures["nodes"].items())[:_SLOWEST]:
        table.add_row(name, f"{spent:.2f}")
    console.print(table)
    _write(json_file, figures)


@app.command("steps")
def steps_command(
    runs: Annotated[int, typer.Option(min=1, help="Runs; figures are the least of them.")] = 25,
    json_file: JsonOption = None,
) -> None:
    """Measure what is computed around the network for a 112 x 112 x 73 volume, step by step."""
    figures = steps(runs)
    table = Table("step", "ms of one core", title=figures["machine"])
    for name, spent in figures["steps"].items():
        table.add_row(name, f"{spent:.1f}")
    wide_console().print(table)
    _write(json_file, figures)


@app.command("stages")
def stages_command(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Volumes to measure; default: synthetic heads.")
    ] = None,
    bundle: BundleOption = None,
    flair: Annotated[bool, typer.Option("--flair", help="Give the synthetic heads FLAIR.")] = False,
    slice_ms: Annotated[
        float, typer.Option(min=0.0, help="Milliseconds that the engine waits for each slice.")
    ] = 0.0,
    runs: Annotated[int, typer.Option(min=1, help="Runs; figures are the least of them.")] = 25,
    json_file: JsonOption = None,
) -> None:
    """Measure a warm `predict` with an engine that leaves the processor alone, stage by stage."""
    figures = staged.stages(bundle, runs, files or (), flair=flair, slice_ms=slice_ms)
    console = wide_console()
    console.print(figures["machine"])
    for name, volume in figures["volumes"].items():
        console.print(f"{name}: {volume['found']}")
        table = Table("stage", "ms", "ms of a core")
        for stage, spent in volume["stages"].items():
            table.add_row(stage, *(f"{spent[kind]:.1f}" for kind in staged.KINDS))
        console.print(table)
    _write(json_file, figures)


@app.command("scale")
def scale_command(
    bundle: BundleOption = None,
    backend: BackendOption = "ort",
    precision: PrecisionOption = "fp32",
    runs: Annotated[int, typer.Option(min=1, help="Repeats; figures are medians.")] = 3,
    json_file: JsonOption = None,
    chart: ChartOption = None,
) -> None:
    """Measure whole volumes by number of slices, in-plane size and number of threads."""
    figures = scaling.scale(bundle, backend, precision, runs)
    console, bars = wide_console(), {}
    for title, rows in figures["tables"].items():
        columns = ("slices", "size", "threads", "seconds", "volume MB", "peak MB")
        table = Table(*columns, title=f"{backend} {precision}: {title}")
        for row in rows:
            cells = (f"{row[key]:.0f}" for key in ("volume_mb", "peak_mb"))
            shape = (str(row[key]) for key in columns[:3])
            table.add_row(*shape, f"{row['seconds']:.3f}", *cells)
            name = f"{row['slices']} slices of {row['size']}², {row['threads']} threads"
            bars[name] = row["seconds"]
        console.print(table)
    _write(json_file, figures)
    if chart is not None:
        bar_chart(chart, f"a whole volume, {backend} {precision}", bars, "s")


@app.command("gpu")
def gpu_command(
    bundle: BundleOption = None,
    device: DeviceOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs; figures are medians.")] = 15,
    json_file: JsonOption = None,
) -> None:
    """Measure every GPU backend and precision: starts, speed, and agreement with PyTorch."""
    figures = on_gpu.gpu(bundle, runs)
    columns = ("start, s", "next, s", f"{on_gpu.BATCH}, ms", f"{on_gpu.VOLUME}, ms", "slices/s")
    table = Table("engine", *columns, "Dice", "gate", title=figures["gpu"])
    measured = {name: row for name, row in figures["rows"].items() if "passes" in row}
    for name, row in measured.items():
        starts = (f"{row[key]:.2f}" for key in ("first_start_s", "next_start_s"))
        times = (f"{row[f'{what} ms']:.2f}" for what in (on_gpu.BATCH, on_gpu.VOLUME))
        speed, dice = f"{row['slices_per_s']:.0f}", f"{row['dice_mean']:.4f}"
        table.add_row(name, *starts, *times, speed, dice, "pass" if row["passes"] else "FAIL")
    console = wide_console()
    if measured:
        console.print(table)
    print_not_usable(figures["rows"], console)
    _write(json_file, figures)


@app.command("service")
def service_command(
    folder: Annotated[Path, typer.Argument(help="Empty folder for the listener.")],
    studies: Annotated[int, typer.Option(min=1, help="Studies to send.")] = 200,
    bundle: BundleOption = None,
    settle: Annotated[float, typer.Option(help="Seconds that a study must be quiet for.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Of the moments of the kills.")] = 0,
    json_file: JsonOption = None,
) -> None:
    """Send studies to a listener that is killed again and again; count lost and doubled ones."""
    from benchmarks.service import soak

    figures = soak(folder, studies, bundle, settle, seed)
    console = wide_console()
    for name, value in figures.items():
        console.print(f"{name}: {value}", markup=False)
    _write(json_file, figures)


@app.command("cohort")
def cohort_command(
    bundle: BundleOption = None,
    backend: BackendOption = "openvino",
    precision: PrecisionOption = "fp32",
    cases: Annotated[int, typer.Option(min=2, help="Volumes of the cohort.")] = 12,
    runs: Annotated[int, typer.Option(min=1, help="Rounds; figures are medians.")] = 3,
    memory: Annotated[
        int, typer.Option(min=0, help="Measure the memory over so many cases instead.")
    ] = 0,
    json_file: JsonOption = None,
) -> None:
    """Measure cases an hour: a loop over the command, one call, processes, Dask workers."""
    console = wide_console()
    if memory:
        figures = cohorts.memory(bundle, memory, backend, precision)
    else:
        options = ["--backend", backend, "--precision", precision]
        figures = cohorts.measure(bundle, cases, runs, options)
        title = f"{cases} volumes of {SHAPE}, {backend} {precision}, {figures['machine']}"
        columns = ("way", "seconds", "processor s", "cases/h", "x loop", "x one call")
        table = Table(*columns, title=title)
        ways = figures["ways"]
        for name, spent in ways.items():
            ratios = (f"{ways[other] / spent:.2f}" for other in (cohorts.LOOP, cohorts.ONE_CALL))
            used = f"{figures['processor'][name]:.1f}"
            table.add_row(name, f"{spent:.1f}", used, f"{3600 * cases / spent:.0f}", *ratios)
        console.print(table)
    for name, value in figures.items():
        if name not in ("ways", "processor"):
            console.print(f"{name}: {value}")
    _write(json_file, figures)


@app.command("images")
def images_command(
    data: Annotated[Path, typer.Option(help="Folder of the collections of real MRI.")],
    bundle: BundleOption = None,
    json_file: JsonOption = None,
) -> None:
    """Count what is refused, warned of and let through, for each kind of image, in Markdown."""
    figures = image_kinds.images(data, bundle)
    typer.echo(image_kinds.markdown(figures))
    for name, counts in figures["bounds"].items():
        typer.echo(f"{name}: {counts['right']} of {counts['of']} by bounds without the person")
    _write(json_file, figures)


@app.command()
def end_to_end(
    bundle: BundleOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Rounds; figures are medians.")] = 7,
    json_file: JsonOption = None,
) -> None:
    """Measure a 112 x 112 x 73 volume from file to outputs, cold and warm."""
    figures = whole.measure(bundle, runs)
    console = wide_console()
    columns = ("engine", *whole.TIMES, "predict / network", "peak MB", "self-check")
    table = Table(*columns, title=figures["machine"])
    measured = {name: row for name, row in figures["rows"].items() if "stages" in row}
    eager = measured[whole.EAGER]
    for name, row in measured.items():
        cells = [f"{row[what]:.3f} ({eager[what] / row[what]:.1f} x)" for what in whole.TIMES]
        share = row[whole.PREDICT] / row[whole.NETWORK]
        table.add_row(name, *cells, f"{share:.2f}", f"{row['peak_mb']:.0f}", row["self_check"])
    console.print(table)
    console.print("seconds, and speed-up over PyTorch eager; stages of predict in ms:")
    for name, row in measured.items():
        stages = ", ".join(f"{what} {1000 * spent:.0f}" for what, spent in row["stages"].items())
        console.print(f"  {name}: {stages}")
    print_not_usable(figures["rows"], console)
    _write(json_file, figures)


@app.command(comparison.ONE, hidden=True)
def one_contestant(name: str, bundle: BundleOption = None) -> None:
    """Run one contestant alone, and print its peak memory."""
    typer.echo(json.dumps(comparison.run_one(bundle, name)))


@app.command(whole.TORCH_PIPELINE, hidden=True)
def torch_pipeline(
    volume: Path, out: Annotated[Path, typer.Option()], bundle: BundleOption = None
) -> None:
    """Segment a volume with PyTorch eager instead of one of our engines."""
    whole.run_torch_pipeline(volume, bundle, out)


def _compared(row: dict[str, Any]) -> tuple[str, ...]:
    share, dice = row.get("share_of_rate"), row.get("dice")
    return (
        f"{row['seconds']:.3f}",
        f"{row['speed_up']:.2f} x",
        "" if share is None else f"{share:.0%}",
        "" if dice is None else f"{dice:.4f}",
        f"{row['peak_mb']:.0f}",
    )


def _write(path: Path | None, figures: dict[str, Any]) -> None:
    if path is not None:
        write_all({path: (json.dumps(figures, indent=2) + "\n").encode()}, overwrite=True)


if __name__ == "__main__":
    run_tool(app, "benchmarks")
