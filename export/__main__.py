"""Command line of the export: ``python -m export CHECKPOINT --out BUNDLE``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.bundle.manifest import spec_from_json
from cnnres_infer.cli.console import wide_console
from cnnres_infer.cli.default_command import DefaultCommandGroup, run_tool
from cnnres_infer.core.case import Modality
from cnnres_infer.errors import UsageError, VerificationError
from cnnres_infer.host.atomic import check_free, write_all
from cnnres_infer.readers.case import read_case
from export.bundle_writer import write_bundle
from export.parity import parity, print_parity
from export.volume_outputs import torch_engine, volume_reference
from network.checkpoint import load_checkpoint
from network.keras_weights import KERAS_EPSILON

# Entries of model.json for a checkpoint without a description.
DEFAULTS: dict[str, Any] = {
    "version": "0",
    "input": {"modalities": ["dwi", "flair"], "size": 160, "spacing_mm": 1.25, "ceiling": 2.0},
    "fusion": {"rule": "mean", "dwi_weight": 0.5},
    "mask": {"threshold": 0.5, "smallest_lesion_ml": 0.0},
}

VolumeArgument = Annotated[Path, typer.Argument(help="NIfTI file (.nii, .nii.gz).")]
FlairOption = Annotated[Path | None, typer.Option(help="FLAIR of the same session.")]
ModalityOption = Annotated[str, typer.Option(help="Modality of VOLUME: dwi or flair.")]
BrainMaskOption = Annotated[Path | None, typer.Option(help="Brain mask on the volume's grid.")]
BundleOption = Annotated[Path | None, typer.Option(help="Model bundle; default: the built-in one.")]
CheckpointOption = Annotated[
    Path | None, typer.Option(help="Weights for PyTorch; default: the bundle's fp32 file.")
]

app = typer.Typer(cls=DefaultCommandGroup, no_args_is_help=True, add_completion=False, help=__doc__)


@app.callback()
def _options() -> None: ...


@app.command()
def bundle(
    checkpoint: Annotated[Path, typer.Argument(help="Weights: .safetensors, .h5 or fp32 .onnx.")],
    out: Annotated[Path, typer.Option(help="Bundle to write.")],
    description: Annotated[
        Path | None, typer.Option(help="JSON file with entries of model.json.")
    ] = None,
    epsilon: Annotated[
        float, typer.Option(help="Epsilon of the batch norms, for Keras files without it.")
    ] = KERAS_EPSILON,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite an existing bundle.")
    ] = False,
) -> None:
    """Export a checkpoint to a model bundle and check it against PyTorch."""
    network = load_checkpoint(checkpoint, epsilon)
    about = {
        "name": checkpoint.stem,
        **DEFAULTS,
        **(_read_json(description) if description else {}),
    }
    about["input"] = {**about["input"], "channels": network.in_channels}
    spec = spec_from_json(about)
    differences = write_bundle(network, spec, about, out, overwrite)
    for name, difference in differences.items():
        typer.echo(f"{name}: largest difference in probability from PyTorch {difference:.2g}")
    typer.echo(f"wrote {out}")


@app.command()
def reference(
    volume: VolumeArgument,
    out: Annotated[Path, typer.Option(help="The .npz file to write.")],
    flair: FlairOption = None,
    modality: ModalityOption = "dwi",
    brain_mask: BrainMaskOption = None,
    bundle: BundleOption = None,
    checkpoint: CheckpointOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite an existing file.")
    ] = False,
) -> None:
    """Store PyTorch's outputs for a volume, for ``cnnres-infer verify`` elsewhere."""
    check_free([out], overwrite)
    opened = Bundle.open(bundle)
    case = read_case(volume, flair=flair, modality=Modality.parse(modality), brain_mask=brain_mask)
    with torch_engine(opened, checkpoint) as engine:
        stored = volume_reference(opened, engine, case)
    write_all({out: stored.to_bytes()}, overwrite)
    typer.echo(f"wrote {out}: PyTorch's outputs for {len(stored.probabilities)} slices")


@app.command("parity")
def parity_command(
    volume: VolumeArgument,
    flair: FlairOption = None,
    modality: ModalityOption = "dwi",
    brain_mask: BrainMaskOption = None,
    bundle: BundleOption = None,
    checkpoint: CheckpointOption = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timing rounds; times are medians.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Compare every backend and precision of this machine with PyTorch on a volume."""
    opened = Bundle.open(bundle)
    case = read_case(volume, flair=flair, modality=Modality.parse(modality), brain_mask=brain_mask)
    with torch_engine(opened, checkpoint) as engine:
        figures = parity(opened, engine, case, repeats)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        print_parity(figures, wide_console())
    failed = [row for row in figures["rows"] if row["status"] == "failed"]
    if failed:
        names = ", ".join(f"{row['backend']} {row['precision']}" for row in failed)
        raise VerificationError(f"disagrees with PyTorch: {names}")


@app.command("compact")
def compact_command(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle to make smaller.")],
) -> None:
    """Replace what follows exactly from a bundle's fp32 file by recipes, before signing it."""
    from export.compact import compact

    for name, share in compact(folder).items():
        typer.echo(f"{name}: a recipe of {100 * share:.1f} % of its size")
    typer.echo(f"sealed {folder}")


@app.command("triton")
def triton_command(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Model bundle to serve.")],
    out: Annotated[Path, typer.Option(help="Folder of the model repository.")],
    variants: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="NAME", help="Variant to serve; may be repeated."),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="TensorRT engine of cnnres-infer build, to serve as well.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write a model repository for the Triton Inference Server."""
    from export.triton import write_repository

    for name in write_repository(Bundle.open(folder), out, variants or (), plan, overwrite):
        typer.echo(f"wrote {out / name}")


@app.command()
def keygen(
    key: Annotated[Path, typer.Argument(help="Private key to write, with KEY.pub beside it.")],
) -> None:
    """Make a key pair to sign bundles with."""
    from export.signing import make_key

    typer.echo(f"wrote {key} (keep it secret) and {make_key(key)} (for --require-signature)")


@app.command()
def sign(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle to sign.")],
    key: Annotated[Path, typer.Option(help="Private key.")],
) -> None:
    """Check the hashes of a bundle, and sign it."""
    from export.signing import sign_bundle

    typer.echo(f"wrote {sign_bundle(folder, key)}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("input", {}), dict):
        raise UsageError(f"{path}: not a JSON object like export/cnnres-dwi-flair.json")
    return content


if __name__ == "__main__":
    run_tool(app, "export")
