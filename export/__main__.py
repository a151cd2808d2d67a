"""Command line of the export: ``python -m export CHECKPOINT --out BUNDLE``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cnnres_infer.bundle import ModelSpec
from cnnres_infer.default_command import DefaultCommandGroup, run_tool
from cnnres_infer.errors import UsageError
from export.bundle_writer import write_bundle
from export.checkpoint import load_checkpoint
from export.keras_weights import KERAS_EPSILON

# What an own model is taken for where no description says otherwise.
PLAIN: dict[str, Any] = {
    "version": "0",
    "input": {"modalities": ["dwi", "flair"], "size": 160, "spacing_mm": 1.25, "ceiling": 2.0},
    "fusion": {"rule": "mean", "dwi_weight": 0.5},
    "mask": {"threshold": 0.5, "smallest_lesion_ml": 0.0},
}

app = typer.Typer(cls=DefaultCommandGroup, no_args_is_help=True, add_completion=False, help=__doc__)


@app.callback()
def _options() -> None: ...


@app.command()
def bundle(
    checkpoint: Annotated[Path, typer.Argument(help="Weights: .safetensors, .h5 or fp32 .onnx.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle to write.")],
    description: Annotated[
        Path | None, typer.Option(help="JSON: name, input, fusion, mask, training data, limits.")
    ] = None,
    epsilon: Annotated[
        float, typer.Option(help="Batch norms' epsilon, for Keras files that do not hold it.")
    ] = KERAS_EPSILON,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
) -> None:
    """Export a checkpoint to a model bundle and check it against PyTorch."""
    network = load_checkpoint(checkpoint, epsilon)
    about = {"name": checkpoint.stem, **PLAIN, **(_read_json(description) if description else {})}
    about["input"] = {**about["input"], "channels": network.in_channels}
    spec = ModelSpec.from_json(about)
    differences = write_bundle(network, spec, about, out, overwrite)
    for name, difference in differences.items():
        typer.echo(f"{name}: largest difference of probabilities from PyTorch {difference:.2g}")
    typer.echo(f"wrote {out}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: no readable JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("input", {}), dict):
        raise UsageError(f"{path}: not a JSON object like export/cnnres-dwi-flair.json")
    return content


if __name__ == "__main__":
    run_tool(app, "export")
