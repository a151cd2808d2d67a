"""Command line of the training: ``python -m training --data DATA --out RUN``."""

import json
from dataclasses import astuple, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.cli.default_command import DefaultCommandGroup, run_tool
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.predictor import Predictor
from export.bundle_writer import seal
from network.checkpoint import load_checkpoint
from training.batches import Batches
from training.data import (
    SPEC,
    VALIDATION_VOLUMES,
    load_collections,
    load_validation_slices,
    series_images,
    volume_images,
)
from training.evaluate import compare_fusions, evaluate_all, evaluate_weights
from training.lesion_free import find_series
from training.limits import limits
from training.loop import Recipe, train
from training.restrictions import compare_restrictions
from training.start import averaged, with_norms
from training.symmetry import padded, symmetric
from training.teacher import Teacher

app = typer.Typer(cls=DefaultCommandGroup, no_args_is_help=True, add_completion=False, help=__doc__)
DataOption = Annotated[Path, typer.Option(help="Folder of the collections of real MRI.")]
# Batches that show which channels see the mirrored of what.
_DRAWS_TO_PAIR_BY = 3

BundleArgument = Annotated[Path, typer.Argument(help="Folder of the bundle.")]


@app.callback()
def _options() -> None: ...


@app.command("train")
def train_command(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the log.")],
    steps: Annotated[int, typer.Option(min=1)] = Recipe.steps,
    seed: Annotated[int, typer.Option()] = Recipe.seed,
    start: Annotated[
        Path | None, typer.Option("--from", help="Weights to begin with: .safetensors or .onnx.")
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Bundle whose network softens the experts' masks of single slices."),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak.")] = Recipe.learning_rate,
    weight_decay: Annotated[float, typer.Option(min=0.0)] = Recipe.weight_decay,
    batch: Annotated[
        int, typer.Option(min=1, help="Multiple of the usual batch size.")
    ] = Recipe.batch,
    averaging: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Share of the averaged weights that stays in each step."
        ),
    ] = Recipe.averaging,
    dropout: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of channels left out of a step.")
    ] = Recipe.dropout,
    minutes: Annotated[
        float, typer.Option(help="End after this time, however many steps are done.")
    ] = Recipe.minutes,
    rounded_from: Annotated[
        float,
        typer.Option(
            help="Share of the training after which images are seen twice, once in 8 bits."
        ),
    ] = Recipe.rounded_from,
    check_every: Annotated[int, typer.Option(min=1)] = Recipe.check_every,
    symmetric_masks: Annotated[
        bool,
        typer.Option(
            "--symmetric", help="Let mirrored images have mirrored masks, by construction."
        ),
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="By default one for a core.")] = None,
    device: Annotated[str, typer.Option(help="What PyTorch computes on: cpu, cuda.")] = "cpu",
) -> None:
    """Train CNN-Res on the real slices and volumes."""
    if threads is not None:
        torch.set_num_threads(threads)
    recipe = Recipe(
        steps=steps,
        seed=seed,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        batch=batch,
        averaging=averaging,
        dropout=dropout,
        minutes=minutes,
        rounded_from=rounded_from,
        check_every=check_every,
    )
    if symmetric_masks and start is None:
        raise typer.BadParameter("--symmetric needs trained weights: give --from")
    collections = load_collections(
        data, seed, None if teacher is None else Teacher.of(Bundle.open(teacher))
    )
    network = mirror = None
    if start is not None:
        batches = Batches(collections, seed, torch.device("cpu"))
        network = with_norms(load_checkpoint(start), batches.draw().images)
        if symmetric_masks:
            drawn = [batches.draw().images for _ in range(_DRAWS_TO_PAIR_BY)]
            network, mirror = symmetric(network, padded(drawn, SPEC.size))
    dwi, flair = collections.validation
    validation = {
        "dwi": dwi,
        "flair": flair,
        **{case: volume_images(data, case) for case in VALIDATION_VOLUMES},
        **{series.name: series_images(series) for series in find_series(data) if series.held_out},
    }
    train(collections, validation, recipe, out, device, network, mirror)


@app.command("average")
def average_command(
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    weights: Annotated[list[Path], typer.Argument(help="Weights to average.")],
    data: DataOption,
    shares: Annotated[list[float], typer.Option("--share", help="Of each, in this order.")],
) -> None:
    """Average the weights of networks that were fine-tuned from the same ones."""
    networks = [load_checkpoint(path) for path in weights]
    seen = torch.from_numpy(load_validation_slices(data)[0].pixels[:, None])
    network = averaged(networks, shares, seen)
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    origin = {path.name: share for path, share in zip(weights, shares, strict=True)}
    save_file(tensors, out, {"averaged": json.dumps(origin)})


@app.command("evaluate")
def evaluate_command(
    bundle: BundleArgument,
    data: DataOption,
    record: Annotated[
        bool, typer.Option("--record", help="Write the figures into the bundle and its card.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="Measure these weights in PyTorch instead of the bundle's.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Instead of the bundle's.")] = None,
    smallest_ml: Annotated[float | None, typer.Option(help="Instead of the bundle's.")] = None,
    dwi_weight: Annotated[float | None, typer.Option(help="Instead of the bundle's.")] = None,
    frame: Annotated[
        str,
        typer.Option(help="Images of weights: whole slices (whole) or cut to the brain (brain)."),
    ] = SPEC.frame,
) -> None:
    """Measure every precision of a bundle against expert masks, and on lesion-free volunteers."""
    opened = Bundle.open(bundle)
    if weights is not None:
        mask, fusion = opened.spec.mask, opened.spec.fusion
        spec = replace(
            opened.spec,
            slices=replace(SPEC, frame=frame),
            mask=MaskSpec(
                mask.threshold if threshold is None else threshold,
                mask.smallest_ml if smallest_ml is None else smallest_ml,
            ),
            fusion=fusion if dwi_weight is None else replace(fusion, dwi_weight=dwi_weight),
        )
        network = load_checkpoint(weights)
        figures = evaluate_weights(replace(opened, spec=spec), network, data)
        typer.echo(json.dumps(figures, indent=2))
        return
    accuracy = evaluate_all(opened, data)
    typer.echo(json.dumps(accuracy, indent=2))
    if record:
        seal(bundle, {**opened.manifest, "accuracy": accuracy})


@app.command("limits")
def limits_command(bundle: BundleArgument, data: DataOption) -> None:
    """Measure what limits the accuracy: patients trained on, small lesions, shading left over."""
    with Predictor.load(bundle, "ort", "fp32") as predictor:
        typer.echo(json.dumps(limits(predictor, data), indent=2))


@app.command("fusion")
def fusion_command(bundle: BundleArgument, data: DataOption) -> None:
    """Compare rules that merge DWI and FLAIR, and thresholds, on the validation patients."""
    with Predictor.load(bundle, "ort", "fp32") as predictor:
        rules = compare_fusions(predictor, data)
    table = Table("rule", "mean Dice", "median Dice", "Dice of all pixels")
    for name, row in rules.items():
        table.add_row(name, *(f"{row[key]:.4f}" for key in ("mean", "median", "pooled")))
    Console().print(table)


@app.command("restriction")
def restriction_command(bundle: BundleArgument, data: DataOption) -> None:
    """Compare bounds of the diffusion check, on labelled volumes and on lesion-free volunteers."""
    table = Table("ADC below", "in at least", "Dice", "lesion-wise F1", "false ml", "none in")
    with Predictor.load(bundle, "ort", "fp32") as predictor:
        for bounds, *accuracy, false_ml, none in compare_restrictions(predictor, data):
            given = ("no check", "") if bounds is None else astuple(bounds)
            figures = (*(f"{each:.3f}" for each in accuracy), f"{false_ml:.2f}", f"{none:.0%}")
            table.add_row(*map(str, given), *figures)
    Console().print(table)


if __name__ == "__main__":
    run_tool(app, "training")
