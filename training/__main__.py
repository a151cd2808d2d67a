"""Command line of the training: ``python -m training --data DATA --out RUN``."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.cli.default_command import DefaultCommandGroup, run_tool
from cnnres_infer.predictor import Predictor
from export.bundle_writer import seal
from training.data import VALIDATION_VOLUMES, load_collections, volume_images
from training.evaluate import compare_fusions, evaluate_all
from training.loop import Recipe, train

app = typer.Typer(cls=DefaultCommandGroup, no_args_is_help=True, add_completion=False, help=__doc__)
DataOption = Annotated[Path, typer.Option(help="Folder of the collections of real MRI.")]
BundleArgument = Annotated[Path, typer.Argument(help="Folder of the bundle.")]


@app.callback()
def _options() -> None: ...


@app.command("train")
def train_command(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the log.")],
    steps: Annotated[int, typer.Option(min=1)] = Recipe.steps,
    seed: Annotated[int, typer.Option()] = Recipe.seed,
    device: Annotated[str, typer.Option(help="What PyTorch computes on: cpu, cuda.")] = "cpu",
) -> None:
    """Train CNN-Res on the real slices and volumes."""
    volumes = {case: volume_images(data, case) for case in VALIDATION_VOLUMES}
    train(load_collections(data), volumes, Recipe(steps=steps, seed=seed), out, device)


@app.command("evaluate")
def evaluate_command(
    bundle: BundleArgument,
    data: DataOption,
    record: Annotated[
        bool, typer.Option("--record", help="Write the figures into the bundle and its card.")
    ] = False,
) -> None:
    """Measure every precision of a bundle against expert masks, per volume and per slice."""
    opened = Bundle.open(bundle)
    accuracy = evaluate_all(opened, data)
    typer.echo(json.dumps(accuracy, indent=2))
    if record:
        seal(bundle, {**opened.manifest, "accuracy": accuracy})


@app.command("fusion")
def fusion_command(bundle: BundleArgument, data: DataOption) -> None:
    """Compare rules that merge DWI and FLAIR, and thresholds, on the validation patients."""
    with Predictor.load(bundle, "ort", "fp32") as predictor:
        rules = compare_fusions(predictor.engine, data)
    table = Table("rule", "mean Dice", "median Dice", "Dice of all pixels")
    for name, row in rules.items():
        table.add_row(name, *(f"{row[key]:.4f}" for key in ("mean", "median", "pooled")))
    Console().print(table)


if __name__ == "__main__":
    run_tool(app, "training")
